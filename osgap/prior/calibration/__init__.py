"""Stage `calibrate`: how far personalisation may go, measured on people who are not tested on."""
