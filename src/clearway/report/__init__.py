"""What Clearway tells other tools about the lanes."""
