"""Stand-ins for the protobuf messages between the Functions host and its worker, which no public package contains. They
are plain objects with the members that Microsoft's runtime library uses."""

from types import SimpleNamespace


class Message(SimpleNamespace):
    """A message with the given members only, so that a test fails if a new version of the library reads another one."""

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802 (protobuf's own name)
        """The name of the member that is set, of which these messages have at most one."""
        return next(iter(vars(self)), None)


class TypedData(Message):
    """Data of one kind, such as `json` or `http`."""


class ParameterBinding(Message):
    """A named argument of a function."""

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802 (protobuf's own name)
        return "data"


class StatusResult(Message):
    """Whether a request succeeded."""

    Failure = 0
    Success = 1


class BindingInfo(Message):
    """A binding of a function, as the worker reports it to the host."""

    undefined = 0
    out = 1
    inout = 2


WorkerInitResponse = FunctionMetadataResponse = FunctionLoadResponse = InvocationResponse = Message
RpcFunctionMetadata = RpcException = RpcHttp = WorkerMetadata = Message
