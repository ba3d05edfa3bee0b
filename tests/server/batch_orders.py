"""A file in a store, and a batch of its lines, as the routes put them there."""

from __future__ import annotations

from yardmaster.server.batch.config import DAY
from yardmaster.server.batch.records import Batch, StoredFile, new_batch_id, new_file_id
from yardmaster.server.batch.store import Store


def upload(store: Store, data: bytes = b"{}", owner: str = "me", keep: int = DAY) -> StoredFile:
    now = int(store.clock())
    file = StoredFile(
        id=new_file_id(), owner=owner, filename="in.jsonl", purpose="batch", bytes=len(data), created_at=now,
        expires_at=now + keep,
    )  # fmt: skip
    with store.shelf.upload() as (sink, path):
        sink.write(data)
        sink.flush()
        store.add_file(file, path)
    return file


def order(store: Store, file: StoredFile, owner: str = "me") -> Batch:
    now = int(store.clock())
    batch = Batch(
        id=new_batch_id(), owner=owner, endpoint="/v1/completions", input_file_id=file.id,
        output_file_id=new_file_id(), error_file_id=new_file_id(), created_at=now, expires_at=now + DAY,
        keep_output=DAY,
    )  # fmt: skip
    store.add_batch(batch)
    return batch
