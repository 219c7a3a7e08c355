"""The stock of an item: an entity whose key is the item. Entities never block a deployment; their ids begin with
`@`."""

import azure.durable_functions as df

blueprint = df.Blueprint()

FUNCTION_NAME = "Stock"
INITIAL_PIECES = 10
"""The initial number of pieces of an item."""


@blueprint.function_name(FUNCTION_NAME)
@blueprint.entity_trigger(context_name="context")
def stock(context: df.DurableEntityContext) -> None:
    """The entity's operations: `get`, `add` and `take`, the last two with a number of pieces.

    Each returns the new number of pieces. A negative number is owed."""
    pieces: int = context.get_state(lambda: INITIAL_PIECES, int)
    match context.operation_name:
        case "add":
            pieces += context.get_input(int)
        case "take":
            pieces -= context.get_input(int)
        case "get":
            pass
        case unknown:
            raise ValueError(f"the stock has no operation {unknown}")
    context.set_state(pieces)
    context.set_result(pieces)


def entity_id(item: str) -> df.EntityId:
    """The entity that counts the pieces of an item."""
    return df.EntityId(FUNCTION_NAME, item)
