"""The performance audit: everything that can be measured of this tree, in one file of findings."""
