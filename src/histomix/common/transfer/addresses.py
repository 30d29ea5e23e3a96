"""Addresses of remote files: which kinds are read, how they are shown, and where a server may send us on to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import unquote, urljoin, urlsplit

from ...errors import DownloadError, InputError
from ..naming import visible

#: Kinds of addresses that are read. fsspec knows many more, some of which read this computer or run other programs.
SCHEMES = ("https", "http", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:(//|.*://)", re.IGNORECASE | re.DOTALL)
_CHAIN = re.compile(r"^[^/]*::|::[a-z0-9+.-]+://", re.IGNORECASE)
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Of protocols, and of one cloud's credentials; older versions of Python take most of it for global.
_OF_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
#: NAT64 (RFC 6052) and the old form (RFC 4291): an address of IPv4 in the last 32 bits.
_HOLDING_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
_HINT = "Give a path, or an address that begins with s3://, gs://, az:// or https://"


def is_address(text: str) -> bool:
    """Whether a text names a remote file (``https://...``), of a kind that is read or not, rather than a path."""
    return _ADDRESS.match(text) is not None


def check_address(text: str) -> str:
    """The kind of an address (``"https"``), if it is one that is read.

    Raises
    ------
    InputError
        It is of another kind, a chain of several (``zip://...::https://...``), or is not written as an address.
    """
    scheme = text.partition(":")[0].lower()
    if _CHAIN.search(text):
        raise InputError("a chain of addresses (with '::') is not read", where=_redacted(text), hint=_HINT)
    if scheme == "file":
        raise InputError(
            "a file of this computer is named by its path", where=_redacted(text), hint="Leave out file://"
        )
    if scheme not in SCHEMES:
        raise InputError(
            f"{visible(scheme, 20)}:// is no kind of address that can be read", where=_redacted(text), hint=_HINT
        )
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname if scheme in ("http", "https") else parts.netloc or parts.path.strip("/"))
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    # Tabs and line ends are dropped from addresses by some readers and kept by others, which would read another one.
    if not usable or any(mark < " " or mark == "\x7f" for mark in text):
        raise InputError("is not written as an address", where=_redacted(text), hint=_HINT)
    return scheme


def redact_url(url: str) -> str:
    """A URL without the parts that may be secret: user, password, and everything after ``?``."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


def _redacted(text: str) -> str:
    """As `redact_url`, of what may be no address at all."""
    return visible(re.sub(r"//[^/@]*@", "//", text.partition("?")[0]))


def check_redirect(source: str, target: str) -> None:
    """Refuse to be sent on by a server to what its address did not name.

    A redirect may lead to ``http`` and ``https`` only, never from ``https`` to ``http``, and never from a public host
    into a private network, to this computer, or to the link-local addresses at which clouds keep credentials.

    Parameters
    ----------
    source
        The address that was asked for.
    target
        Where the server sends us, absolute or relative to it.

    Raises
    ------
    DownloadError
        The redirect is refused.
    """
    try:
        before, after = urlsplit(source), urlsplit(urljoin(source, target))
        inner = before.hostname != after.hostname and _inner(after.hostname, any) and not _inner(before.hostname, all)
    except ValueError:
        raise DownloadError(
            "the server sends us on to what is no address", where=redact_url(source), hint="Check the address"
        ) from None
    if after.scheme not in ("http", "https"):
        fault = f"to another kind of address ({visible(after.scheme, 20)}:)"
    elif (before.scheme, after.scheme) == ("https", "http"):
        fault = "from an encrypted connection to an open one"
    elif inner:
        fault = f"from a public host into a private network ({visible(after.hostname or '')})"
    else:
        return
    raise DownloadError(
        f"the server sends us on {fault}, which is not followed",
        where=redact_url(source),
        hint="If you trust it, give the address that it leads to",
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine, as seen from itself."""
    addresses = _addresses(host.strip("[]"))
    return bool(addresses) and all(address.is_loopback for address in addresses)


def _inner(host: str | None, among: Callable[[Iterable[bool]], bool]) -> bool:
    """Whether any, or all, of a host's addresses are of this computer or of a private network; none: no."""
    addresses = _addresses(unquote(host or ""))  # a zone of IPv6 is written %25eth0
    return bool(addresses) and among(not address.is_global or address in _OF_PROTOCOLS for address in addresses)


def _addresses(host: str) -> list[IPAddress]:
    """Of a host, as far as its name resolves here."""
    try:
        texts = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return []  # it cannot be reached either
    return [_inside(ipaddress.ip_address(one)) for one in texts]


def _inside(address: IPAddress) -> IPAddress:
    """The IPv4 address that one of IPv6 holds, by which gateways pass on what is sent to it; else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if any(address in network for network in _HOLDING_IPV4) and int(address) & 0xFFFFFFFF > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
