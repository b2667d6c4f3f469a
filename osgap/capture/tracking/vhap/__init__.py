"""Reader of FLAME tracking exports in VHAP's layout; begins in `export`."""
