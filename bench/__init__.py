"""Questions about speed, one file each: both sides in one run, interleaved, with the spread."""
