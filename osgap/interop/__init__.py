"""Files of other programs: what they made, read; what they open, written."""
