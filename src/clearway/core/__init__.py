"""The words of the design as plain Python: lanes, journeys, deadlines, histograms.

Nothing here imports a third-party package, and nothing here knows the rooms above.
"""
