"""The functions that training and evaluation offer."""

from __future__ import annotations

from .functions import Function
from .functions_home import HOME
from .functions_office import OFFICE
from .functions_travel import TRAVEL

CATALOGUE: tuple[Function, ...] = (*HOME, *TRAVEL, *OFFICE)
