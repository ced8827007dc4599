"""A library that says one thing over and over is heard once in ten seconds."""

from __future__ import annotations

import logging

from streams.logs import NotAgain, quieten


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("aiokafka.client", logging.ERROR, "", 0, message, arguments, None)


def test_a_message_is_let_through_again_after_ten_seconds_and_others_at_once():
    now = 0.0
    only = NotAgain(lambda: now)
    heard = []
    for second in range(25):
        now = float(second)
        heard.append(only.filter(record("cannot connect to %s", second)))
    assert [second for second, passed in enumerate(heard) if passed] == [0, 10, 20]
    assert only.filter(record("something else"))


def test_every_logger_of_the_kafka_client_gets_its_own():
    import aiokafka  # noqa: F401

    quieten()
    loggers = [name for name in logging.root.manager.loggerDict if name.startswith("aiokafka.")]
    assert loggers
    assert all(any(isinstance(f, NotAgain) for f in logging.getLogger(name).filters) for name in loggers)
