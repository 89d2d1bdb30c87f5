"""`keras-esq tune`."""

from __future__ import annotations

from keras_esq.cli.command import Command
from keras_esq.tuning import command

COMMAND = Command(
    name="tune",
    help=command.HELP,
    description=command.DESCRIPTION,
    example=command.EXAMPLE,
    add_arguments=command.add_arguments,
    run=command.run,
)
