"""``python -m dpvision``, which torchrun starts."""

from dpvision.cli.main import main

main()
