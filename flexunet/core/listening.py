"""Why nobody can listen where a server was told to."""

import errno
import os
import socket

from flexunet.core.errors import UserError


def cannot_listen(host: str, port: int, error: OSError, repair: str = "choose another") -> UserError:
    """Tells a host that is no address, or not this machine's, from a port that is taken or not allowed.

    Args:
      host: where a server was to listen.
      port: likewise.
      error: why the system refuses it.
      repair: what to do about a port.
    """
    if isinstance(error, socket.gaierror):
        what = f"no address, and no name that is known here ({error.strerror})"
    elif error.errno == errno.EADDRNOTAVAIL:
        what = "no address of this machine"
    else:
        words = os.strerror(error.errno) if error.errno else error
        return UserError(f"{host}:{port}: {words}, expected a free port: {repair}")
    return UserError(f"{host}: {what}, expected one, such as 127.0.0.1, or 0.0.0.0 for all: correct --host")
