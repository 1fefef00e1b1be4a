"""What every coord process stands on: its life cycle, its clock, its assets."""
