"""gRPC through readygate: HTTP/2 on both sides, a server and a client on grpcio."""

import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from harness import proxy

WAIT_SECONDS = 10
MESSAGES = 200


class Service(grpc.GenericRpcHandler):
    """Methods on plain bytes, so that nothing has to be generated."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        methods = {
            "/test/Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "/test/Count": grpc.unary_stream_rpc_method_handler(self._count),
            "/test/Sum": grpc.stream_unary_rpc_method_handler(self._sum),
            "/test/Echo": grpc.stream_stream_rpc_method_handler(self._echo),
            "/test/Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "/test/Hang": grpc.unary_unary_rpc_method_handler(self._hang),
        }
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        sent = dict(context.invocation_metadata())
        context.set_trailing_metadata([("seen", sent.get("token", ""))])
        return request[::-1]

    def _count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    def _sum(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return str(sum(int(request) for request in requests)).encode()

    def _echo(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        yield from requests

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("detail", "more")])
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4")

    def _hang(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(WAIT_SECONDS)
        if not context.is_active():
            self.cancelled.set()
        return b""


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def channel(service: Service, processes, tmp_path) -> Iterator[grpc.Channel]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([service])
    upstream = server.add_insecure_port("127.0.0.1:0")
    server.start()
    port = proxy.start_with(
        processes,
        tmp_path,
        lambda port: f"""\
[[listen]]
address = "127.0.0.1:{port}"
h2c = true

[[route]]
upstream = "http://127.0.0.1:{upstream}"
[route.http]
version = "2"
""",
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()


def test_unary_calls_carry_metadata_both_ways(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/test/Unary")

    for size in (0, 1, 100_000, 3_000_000):
        payload = bytes(range(256)) * (size // 256 + 1)
        answer, done = call.with_call(payload[:size], metadata=[("token", "t")])

        assert answer == payload[:size][::-1]
        assert dict(done.trailing_metadata())["seen"] == "t"
        assert done.code() == grpc.StatusCode.OK


def test_calls_of_one_channel_go_side_by_side(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/test/Unary")

    pending = [call.future(str(number).encode()) for number in range(MESSAGES)]

    answers = [one.result(WAIT_SECONDS) for one in pending]
    assert answers == [str(number)[::-1].encode() for number in range(MESSAGES)]


def test_a_stream_from_the_server_arrives_whole(channel: grpc.Channel) -> None:
    numbers = channel.unary_stream("/test/Count")(str(MESSAGES).encode())

    assert [int(number) for number in numbers] == list(range(MESSAGES))


def test_a_stream_from_the_client_arrives_whole(channel: grpc.Channel) -> None:
    numbers = (str(number).encode() for number in range(MESSAGES))

    answer = channel.stream_unary("/test/Sum")(numbers)

    assert int(answer) == sum(range(MESSAGES))


def test_each_message_of_a_conversation_is_answered_before_the_next(
    channel: grpc.Channel,
) -> None:
    answered = threading.Semaphore(1)

    def one_by_one() -> Iterator[bytes]:
        for number in range(MESSAGES):
            assert answered.acquire(timeout=WAIT_SECONDS)
            yield str(number).encode()

    echoes = []
    for echo in channel.stream_stream("/test/Echo")(one_by_one()):
        echoes.append(int(echo))
        answered.release()

    assert echoes == list(range(MESSAGES))


def test_a_status_comes_in_trailers_with_its_message_and_metadata(
    channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/test/Fail")(b"")

    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    assert failed.value.details() == "no such thing: \u00e4"
    assert dict(failed.value.trailing_metadata())["detail"] == "more"


def test_an_unknown_method_is_the_servers_to_refuse(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/test/Unknown")(b"")

    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_ends_the_call_on_both_sides(
    channel: grpc.Channel, service: Service
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/test/Hang")(b"", timeout=0.3)

    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.cancelled.wait(WAIT_SECONDS)


def test_a_cancelled_call_is_cancelled_at_the_server(
    channel: grpc.Channel, service: Service
) -> None:
    call = channel.unary_unary("/test/Hang").future(b"")
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(0.3)

    call.cancel()

    assert service.cancelled.wait(WAIT_SECONDS)
