"""Reader of NeRSemble's benchmark, videos with alpha and FLAME tracking of whole sequences; begins in `reader`."""
