"""Reader of IMavatar's data sets, in whose layout PointAvatar's and SplattingAvatar's are; begins in `reader`."""
