"""Channels and servers: who is let in, what is refused, and that certificates can be renewed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc import aio
from vaco.channels import (
    MAX_MESSAGE_BYTES,
    Security,
    aio_channel,
    bind,
    is_loopback,
    server_options,
    sync_channel,
)
from vaco.errors import UserError
from vaco.v1 import learner_pb2, learner_pb2_grpc

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[..., AbstractAsyncContextManager[str]]
    WriteSecurity = Callable[..., Security]

TIMEOUT = 20.0


async def job_uid(address: str, security: Security | None) -> str:
    """Asks for the status on a channel of its own."""
    async with aio_channel(address, security) as channel:
        return await ask(channel)


async def ask(channel: aio.Channel) -> str:
    stub = learner_pb2_grpc.LearnerServiceStub(channel)
    request = learner_pb2.GetStatusRequest()
    response = await stub.GetStatus(request, timeout=TIMEOUT)  # type: ignore[misc]
    return str(response.job_uid)


def outcome(
    serve: Serve, server: Security | None, call: Callable[[str], Awaitable[str]]
) -> str | grpc.StatusCode:
    """What a call answers, or the status it fails with."""

    async def run() -> str | grpc.StatusCode:
        async with serve(server) as address:
            try:
                return await call(address)
            except aio.AioRpcError as error:
                return error.code()

    return asyncio.run(run())


def test_both_ends_of_a_job_find_each_other(
    serve: Serve, security: Security, client_security: Security
) -> None:
    assert outcome(serve, security, lambda a: job_uid(a, client_security)) == "job"


def test_loopback_needs_no_credentials(serve: Serve) -> None:
    assert outcome(serve, None, lambda a: job_uid(a, None)) == "job"


def test_a_blocking_channel_gets_in_too(
    serve: Serve, security: Security, client_security: Security
) -> None:
    def call(address: str) -> str:
        with sync_channel(address, client_security) as channel:
            stub = learner_pb2_grpc.LearnerServiceStub(channel)
            return stub.GetStatus(learner_pb2.GetStatusRequest(), timeout=TIMEOUT).job_uid

    assert outcome(serve, security, lambda a: asyncio.to_thread(call, a)) == "job"


@pytest.mark.parametrize("secured", [False, True])
def test_every_channel_has_a_connection_of_its_own(
    serve: Serve, security: Security, client_security: Security, secured: bool
) -> None:
    async def tell(_request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        return context.peer().encode()

    def add(server: aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(tell)
        generic = grpc.method_handlers_generic_handler("test.Service", {"Peer": handler})
        server.add_generic_rpc_handlers((generic,))

    async def run() -> tuple[bytes, bytes, bytes]:
        credentials = client_security if secured else None
        async with (
            serve(security if secured else None, add) as address,
            aio_channel(address, credentials) as one,
            aio_channel(address, credentials) as other,
        ):
            calls = (channel.unary_unary("/test.Service/Peer") for channel in (one, other, one))
            first, second, again = [await call(b"", timeout=TIMEOUT) for call in calls]
            return first, second, again

    first, second, again = asyncio.run(run())
    assert first != second
    assert first == again


def test_a_wrong_token_is_refused(
    serve: Serve, security: Security, client_security: Security
) -> None:
    client_security.token.write_text("another\n")
    code = outcome(serve, security, lambda a: job_uid(a, client_security))
    assert code == grpc.StatusCode.UNAUTHENTICATED


def test_no_token_is_refused(serve: Serve, security: Security, client_security: Security) -> None:
    async def call(address: str) -> str:
        credentials = grpc.ssl_channel_credentials(
            client_security.ca.read_bytes(),
            client_security.key.read_bytes(),
            client_security.cert.read_bytes(),
        )
        async with aio.secure_channel(address, credentials) as channel:
            return await ask(channel)

    assert outcome(serve, security, call) == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["stream_stream", "stream_unary", "unary_stream", "unary_unary"])
def test_every_kind_of_call_is_refused_without_the_token(
    serve: Serve, security: Security, client_security: Security, method: str
) -> None:
    """A refused stream must end at once, not wait for its first message."""

    async def handle(_request: object, _context: object) -> bytes:
        raise AssertionError("let in without the token")

    def add(server: aio.Server) -> None:
        handler = getattr(grpc, f"{method}_rpc_method_handler")(handle)
        generic = grpc.method_handlers_generic_handler("test.Service", {"Call": handler})
        server.add_generic_rpc_handlers((generic,))

    async def call() -> grpc.StatusCode:
        async with (
            serve(security, add) as address,
            aio_channel(address, client_security) as channel,
        ):
            multicallable = getattr(channel, method)("/test.Service/Call")
            stream = method.startswith("stream")
            started = (
                multicallable(timeout=TIMEOUT) if stream else multicallable(b"", timeout=TIMEOUT)
            )
            return await started.code()  # type: ignore[no-any-return]

    client_security.token.write_text("another")
    assert asyncio.run(call()) == grpc.StatusCode.UNAUTHENTICATED


def test_a_certificate_of_another_authority_is_refused(
    serve: Serve, security: Security, write_security: WriteSecurity, tmp_path: Path
) -> None:
    stranger = write_security(tmp_path / "stranger", authority="another")
    # It trusts the server: only the server's own check can refuse it.
    trusting = replace(stranger, ca=security.ca)
    code = outcome(serve, security, lambda a: job_uid(a, trusting))
    assert code == grpc.StatusCode.UNAVAILABLE


def test_a_server_of_another_authority_is_not_trusted(
    serve: Serve, write_security: WriteSecurity, client_security: Security, tmp_path: Path
) -> None:
    impostor = write_security(tmp_path / "impostor", authority="another")
    # It lets our client in: only the client's own check can refuse it.
    shutil.copy(client_security.ca, tmp_path / "impostor" / "ca.pem")
    code = outcome(serve, impostor, lambda a: job_uid(a, client_security))
    assert code == grpc.StatusCode.UNAVAILABLE


def test_no_certificate_is_refused(
    serve: Serve, security: Security, client_security: Security
) -> None:
    async def call(address: str) -> str:
        credentials = grpc.ssl_channel_credentials(client_security.ca.read_bytes())
        async with aio.secure_channel(address, credentials) as channel:
            return await ask(channel)

    assert outcome(serve, security, call) == grpc.StatusCode.UNAVAILABLE


def test_plain_text_is_refused(serve: Serve, security: Security) -> None:
    assert outcome(serve, security, lambda a: job_uid(a, None)) == grpc.StatusCode.UNAVAILABLE


def test_certificates_are_renewed_while_the_server_runs(
    serve: Serve, security: Security, write_security: WriteSecurity, tmp_path: Path
) -> None:
    """The whole authority changes; who holds the new certificate gets in, the old one does not."""
    old = write_security(tmp_path / "old")
    new = write_security(tmp_path / "new", authority="another")

    async def run() -> None:
        async with serve(security) as address:
            async with aio_channel(address, old) as open_channel:
                assert await ask(open_channel) == "job"
                write_security(security.ca.parent, authority="another")
                assert await job_uid(address, new) == "job"
                assert await ask(open_channel) == "job", "an open connection goes on"
            with pytest.raises(aio.AioRpcError) as refused:
                await job_uid(address, old)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


def test_half_renewed_certificates_leave_the_old_ones_in_force(
    serve: Serve,
    security: Security,
    client_security: Security,
    write_security: WriteSecurity,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    new = write_security(tmp_path / "new", "renewed")

    async def run() -> None:
        async with serve(security) as address:
            shutil.copy(new.cert, security.cert)
            with caplog.at_level(logging.WARNING):
                assert await job_uid(address, client_security) == "job"
            assert "keeping the old certificates" in caplog.text
            shutil.copy(new.key, security.key)
            with caplog.at_level(logging.INFO):
                assert await job_uid(address, client_security) == "job"
            assert "certificates reloaded" in caplog.text
            security.key.unlink()
            assert await job_uid(address, client_security) == "job"

    asyncio.run(run())


def test_tokens_are_renewed_while_both_run(
    serve: Serve, security: Security, client_security: Security
) -> None:
    async def run() -> None:
        async with serve(security) as address, aio_channel(address, client_security) as channel:
            assert await ask(channel) == "job"
            security.token.write_text("renewed")
            with pytest.raises(aio.AioRpcError) as refused:
                await ask(channel)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            client_security.token.write_text("renewed")
            assert await ask(channel) == "job"

    asyncio.run(run())


def test_a_server_that_lost_its_token_lets_nobody_in(
    serve: Serve, security: Security, client_security: Security
) -> None:
    async def call(address: str) -> str:
        security.token.unlink()
        return await job_uid(address, client_security)

    assert outcome(serve, security, call) == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES - 64, MAX_MESSAGE_BYTES + 1])
def test_a_message_over_the_bound_is_refused(serve: Serve, size: int) -> None:
    async def length(request: bytes, _context: object) -> bytes:
        return str(len(request)).encode()

    def add(server: aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(length)
        generic = grpc.method_handlers_generic_handler("test.Service", {"Length": handler})
        server.add_generic_rpc_handlers((generic,))

    async def run() -> bytes:
        unbounded = [("grpc.max_send_message_length", -1)]
        async with (
            serve(None, add) as address,
            aio.insecure_channel(address, options=unbounded) as channel,
        ):
            call = channel.unary_unary("/test.Service/Length")
            return bytes(await call(bytes(size), timeout=TIMEOUT))

    if size <= MAX_MESSAGE_BYTES:
        assert asyncio.run(run()) == str(size).encode()
    else:
        with pytest.raises(aio.AioRpcError) as refused:
            asyncio.run(run())
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_two_servers_do_not_share_a_port() -> None:
    async def run() -> None:
        first, second = (aio.server(options=server_options()) for _ in range(2))
        port = bind(first, "127.0.0.1:0")
        await first.start()
        try:
            with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
                bind(second, f"127.0.0.1:{port}")
        finally:
            await first.stop(0)
            await second.stop(0)

    asyncio.run(run())


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "learner:50051", ":0"])
def test_plain_text_beyond_loopback_is_refused(address: str) -> None:
    async def run() -> None:
        server = aio.server(options=server_options())
        try:
            with pytest.raises(UserError, match="not loopback"):
                bind(server, address)
        finally:
            await server.stop(0)

    asyncio.run(run())


def test_loopback() -> None:
    for address in ("127.0.0.1:0", "127.5.5.5:1", "localhost:0", "[::1]:0", "unix:/tmp/socket"):
        assert is_loopback(address), address


def variables(security: Security) -> dict[str, str]:
    return {
        "VACO_TLS_CA": str(security.ca),
        "VACO_TLS_CERT": str(security.cert),
        "VACO_TLS_KEY": str(security.key),
        "VACO_TOKEN_FILE": str(security.token),
    }


def test_security_comes_from_the_environment(security: Security) -> None:
    assert Security.from_environment(variables(security)) == security
    assert Security.from_environment({"PATH": "/bin"}) is None


@pytest.mark.parametrize(
    "name", ["VACO_TLS_CA", "VACO_TLS_CERT", "VACO_TLS_KEY", "VACO_TOKEN_FILE"]
)
def test_half_of_the_security_is_refused(security: Security, name: str) -> None:
    environment = variables(security)
    del environment[name]
    with pytest.raises(UserError, match=f"`{name}`: not set"):
        Security.from_environment(environment)


def test_credentials_that_cannot_be_used_are_refused(
    security: Security, client_security: Security, tmp_path: Path
) -> None:
    for broken, path in (
        (replace(security, key=client_security.key), security.cert),
        (replace(security, ca=tmp_path / "missing"), tmp_path / "missing"),
        (replace(security, ca=security.token), security.token),
        (replace(security, token=tmp_path), tmp_path),
    ):
        with pytest.raises(UserError) as refused:
            Security.from_environment(variables(broken))
        assert refused.value.path == str(path)
    security.token.write_text(" \n")
    with pytest.raises(UserError, match="holds no token"):
        Security.from_environment(variables(security))
