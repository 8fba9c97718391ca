"""Ports that a service of this configuration listens on, and gateways that a worker of it would join."""

from __future__ import annotations

import errno
import socket as net
import time
from collections.abc import Iterator

import zmq

from shared.addresses import addresses_of, bind_fault, is_name, parse_endpoint
from shared.curve import Keys, check_plain, load_keys
from shared.errors import ConfigError
from shared.link import drain_monitor, make_dealer, monitor
from shared.settings import Config
from shared.state import GatewayState, ServeState, read_states
from tools.service.checkup.finding import Finding, fault, ok, warning

_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_CONNECT_S, _HANDSHAKE_S = 3.0, 5.0


def check_ports(config: Config) -> Iterator[Finding]:
    """Whether the HTTP port and every gateway process's link port can be bound, or are ours already."""
    gateway, link = config.gateway, config.link
    fronts = [state for state in read_states(config.serve.state_dir) if isinstance(state, ServeState | GatewayState)]
    ours = {gateway.port: {s.port for s in fronts}, link.port: {s.link_port for s in fronts}}
    wanted = [("gateway.port", gateway.host, gateway.port)]
    wanted += [("link.port", link.host, link.port + number) for number in range(gateway.processes)]
    for key, host, port in wanted:
        if port in ours[gateway.port if key == "gateway.port" else link.port]:
            yield ok(key, f"{host}:{port} is this service's, which runs")
            continue
        error = bind_fault(host, port)
        if error is None:
            yield ok(key, f"{host}:{port} is free")
        elif error.errno == errno.EADDRINUSE:
            advice = f"end what listens there (ss -ltnp 'sport = :{port}'), or name another in {key}"
            yield fault(key, f"{host}:{port} is in use by another program", advice)
        elif error.errno == errno.EACCES:
            advice = "a port from 1024 on, with a proxy in front; or AmbientCapabilities=CAP_NET_BIND_SERVICE"
            yield fault(key, f"{host}:{port} is for root alone", advice)
        else:
            yield fault(key, f"{host}:{port}: {error.strerror}", f"an address of this machine in {key[:-4]}host")


def check_gateway(config: Config, endpoint: str) -> Iterator[Finding]:
    """Whether a worker of this configuration gets through to a gateway's link: network, firewall, keys."""
    try:
        host, port = parse_endpoint(endpoint)
        if is_name(endpoint):
            for found in addresses_of(endpoint):
                yield from check_gateway(config, found)
            return
        check_plain(host, config.link)
        keys = load_keys(config.link, need_server=True)
    except ConfigError as error:
        yield fault(endpoint, str(error), "docs/deployment.md, Two hosts")
        return
    except net.gaierror as error:
        yield fault(endpoint, f"cannot be looked up: {error.strerror}", "is this the name, and DNS reached from here?")
        return
    began = time.monotonic()
    try:
        net.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        advice = f"is the gateway up, its link.host reachable from here (not 127.0.0.1), and {port}/tcp let through?"
        yield fault(endpoint, f"no connection: {error.strerror or error}", advice)
        return
    ms = (time.monotonic() - began) * 1000
    met = _shake_hands(endpoint, keys)
    if met == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        yield ok(endpoint, f"reached in {ms:.1f} ms; the {'plain' if keys is None else 'CURVE'} handshake succeeds")
        if ms > 20:
            yield warning(endpoint, f"{ms:.0f} ms away", "callers hear the way there and back: keep both in one place")
    elif met == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        advice = "put this worker's NAME.key into the gateway's link.allowed_workers_dir (fast-vc keys link NAME)"
        yield fault(endpoint, "the gateway does not allow this key", advice)
    else:
        advice = "both sides with keys or both without; link.server_key_file must be that gateway's"
        yield fault(endpoint, "connected, but no handshake: the two sides do not agree on keys", advice)


def _shake_hands(endpoint: str, keys: Keys | None) -> int | None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = make_dealer(context, keys, "doctor")
    watcher = monitor(socket, _EVENTS)
    try:
        socket.connect(endpoint)
        return next(iter(drain_monitor(watcher)), None) if watcher.poll(round(_HANDSHAKE_S * 1000)) else None
    finally:
        socket.disable_monitor()
        watcher.close(0)
        socket.close(0)
        context.term()
