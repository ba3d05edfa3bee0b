"""The application on a socket, under uvicorn."""

from __future__ import annotations

import gc

import uvicorn
from fastapi import FastAPI

from .config import HttpConfig
from .protocol import bounded_protocol


def uvicorn_config(app: FastAPI, config: HttpConfig) -> uvicorn.Config:
    """uvloop and httptools, no access log, bounded heads and timeouts; a stop signal lets running answers finish."""
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        loop="uvloop",
        http=bounded_protocol(config.max_header_bytes, config.header_timeout, config.send_timeout),
        ws="none",
        lifespan="off",
        log_level="error",  # its warnings are about what clients send: anyone could fill a disk with them
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=config.keep_alive_timeout,
        timeout_graceful_shutdown=config.shutdown_timeout,
    )


async def serve(app: FastAPI, config: HttpConfig) -> None:
    """Serve until a signal, on the running event loop: start that with `uvloop.run`.

    Raises SystemExit, after uvicorn has logged why, when the address cannot be bound.
    """
    # What start-up has made lives as long as the server: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    await uvicorn.Server(uvicorn_config(app, config)).serve()
