"""Entry point of `python -m evalkit`, which torchrun and srun need."""

from evalkit.cli.main import main

main()
