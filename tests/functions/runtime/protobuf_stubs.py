"""Stand-ins for the messages of the Functions host's protocol, which no package on the index carries: plain objects
with the members that Microsoft's runtime library reads and sets."""

from types import SimpleNamespace


class Message(SimpleNamespace):
    """Any message: what it is made with, and nothing else, so that a new version that reads more is noticed."""

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802 (protobuf's own name)
        """The one member that is set; the messages here are made with one at the most."""
        return next(iter(vars(self)), None)


class TypedData(Message):
    """Data of one kind, such as `json` or `http`."""


class ParameterBinding(Message):
    """An argument of a function, by name."""

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802 (protobuf's own name)
        return "data"


class StatusResult(Message):
    """Whether a request succeeded."""

    Failure = 0
    Success = 1


class BindingInfo(Message):
    """A binding, as the host is told of it."""

    undefined = 0
    out = 1
    inout = 2


WorkerInitResponse = FunctionMetadataResponse = FunctionLoadResponse = InvocationResponse = Message
RpcFunctionMetadata = RpcException = RpcHttp = WorkerMetadata = Message
