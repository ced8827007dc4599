"""Yardstick: a bare aiohttp handler that parses JSON, sends it by aiokafka, and answers when it is acknowledged.

No token, no validation, no Avro, no metrics. The producer is set as the gateway's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import uvloop
from aiohttp import web
from aiokafka import AIOKafkaProducer

from deploy.local.bench_gateway.requests import TOPIC
from streams.domain.naming import event_topic
from streams.kafka.security import aiokafka_options
from streams.settings import load_settings


def application() -> web.Application:
    """The server."""
    settings = load_settings()
    topic = event_topic(TOPIC)
    producers: list[AIOKafkaProducer] = []

    async def connection(_: web.Application) -> AsyncIterator[None]:
        producer = AIOKafkaProducer(
            **aiokafka_options(settings), acks="all", enable_idempotence=True, linger_ms=settings.kafka_linger_ms
        )
        async with producer:
            producers.append(producer)
            yield

    async def publish(request: web.Request) -> web.Response:
        body = await request.read()
        event = orjson.loads(body)
        stored = await producers[0].send_and_wait(topic, body, key=event["device_id"].encode())
        answer = {"partition": stored.partition, "offset": stored.offset}
        return web.Response(status=201, body=orjson.dumps(answer), content_type="application/json")

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    found = web.Application()
    found.cleanup_ctx.append(connection)
    found.router.add_post(f"/api/v1/events/{TOPIC}", publish)
    found.router.add_get("/api/v1/health/ready", ready)
    return found


def main() -> None:
    """Serve until SIGTERM."""
    settings = load_settings()
    # As the worker's server: no line for each request.
    web.run_app(
        application(),
        host=settings.web_host,
        port=settings.web_port,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
