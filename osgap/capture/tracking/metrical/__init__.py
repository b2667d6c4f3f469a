"""Reader of metrical-tracker's output, and of INSTA's and RGBAvatar's data sets made of it; begins in `reader`."""
