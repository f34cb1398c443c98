"""A request that could not be sent, and is sent again at once."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownError

from stillhouse.bus import encode, producer_options
from stillhouse.client import Client
from stillhouse.events import InferenceCompleted, InferenceRequested


class FirstFails:
    """A producer that refuses one record."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._refused = False

    async def send_and_wait(self, *arguments, **options):
        if not self._refused:
            self._refused = True
            raise UnknownError()
        return await self._producer.send_and_wait(*arguments, **options)

    async def stop(self) -> None:
        await self._producer.stop()


async def test_a_request_sent_again_after_a_refusal_gets_its_answer(settings) -> None:
    request = InferenceRequested(task="intents", input="x")
    answer = encode(InferenceCompleted(task="intents", request_id=request.id, status="ok"), source="/test")
    async with Client(settings) as client, asyncio.timeout(60):
        client._producer = FirstFails(client._producer)
        with pytest.raises(KafkaError):
            await client.submit(request)
        future = await client.submit(request)
        async with AIOKafkaProducer(**producer_options(settings.kafka)) as producer:
            await producer.send_and_wait(answer.topic, answer.value, key=answer.key, headers=answer.headers)
        assert (await future).request_id == request.id
