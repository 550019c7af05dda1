"""Every configuration group of trilab; the files are YAML, this package only carries them into the wheel."""
