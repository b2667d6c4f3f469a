"""From camera files and tracking exports to one HDF5 file per subject."""
