"""FLAME tracking of any layout, read into one `recording.Recording`."""
