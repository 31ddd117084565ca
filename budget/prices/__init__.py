"""The price book: which model a name means, what it costs since when, and what the operator says instead.

    own            the operator's layers over the shipped book, and the rule about prices that fall
    stale          when a book is old, or a price was to be looked at again
    overlayfiles   the operator's files, checked (pydantic)
    files, schema  the sources in `prices/`, checked (pydantic) and compiled to `prices.json`
    book           `PriceBook`: models by name
    overlay        prices given in code, checked by hand
    keys           the rates of a row by name, to show and to compare them
    models, names  a model and its dated rows; the rules by which a name means one
    rates          what the tokens of one row cost, exactly and at most

A start without files of the operator's own loads neither pydantic nor more of the book than its list of names.
"""

from budget.prices.book import PriceBook
from budget.prices.models import Model, Row
from budget.prices.rates import Cost, Rates

__all__ = ["Cost", "Model", "PriceBook", "Rates", "Row"]
