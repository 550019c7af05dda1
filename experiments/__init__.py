"""Questions asked with trilab and their answers; this package only carries the files into the wheel."""
