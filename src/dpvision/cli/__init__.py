"""The command line: thin commands over dpvision.api."""
