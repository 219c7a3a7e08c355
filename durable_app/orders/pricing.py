"""Pricing. An activity prices one item, so that all items of an order are priced in parallel."""

import zlib

import azure.durable_functions as df

blueprint = df.Blueprint()

_MIN_PRICE_CENTS = 100
_PRICE_RANGE_CENTS = 900


@blueprint.function_name("PriceItem")
@blueprint.activity_trigger(input_name="item")
def price_item(item: str) -> int:
    """The price of one piece, in cents. The same item always has the same price."""
    return _MIN_PRICE_CENTS + zlib.crc32(item.encode()) % _PRICE_RANGE_CENTS
