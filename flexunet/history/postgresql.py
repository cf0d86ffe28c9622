"""What ML Metadata 1.17.1 does not do right on PostgreSQL, and TFX needs.

It cannot write a backslash: "syntax error at or near", or worse than an error. It takes the quotes off what libpq's
PQescapeLiteral gives, which for a string with a backslash begins with E as well, and then puts its own around the rest.
TFX's parameters are JSON inside JSON, full of backslashes. Here a character that no text uses stands for them in the
database; whoever reads through this module sees backslashes.

It answers questions by id in the order of the table, which on PostgreSQL changes with each update. TFX pairs question
and answer one by one when it takes a node's outputs from the cache: Transform's graph became its examples.
"""

from collections.abc import MutableMapping, MutableSequence, Sequence
from typing import Final

import ml_metadata as mlmd
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_BACKSLASH: Final = "\\"
# Of Unicode's private use area.
_STAND_IN: Final = "\ue05c"
# Requests by id: where the question has the ids, where the answer has what they stand for.
_BY_ID: Final = {
    "GetArtifactsByID": ("artifact_ids", "artifacts"),
    "GetExecutionsByID": ("execution_ids", "executions"),
    "GetContextsByID": ("context_ids", "contexts"),
    "GetArtifactTypesByID": ("type_ids", "artifact_types"),
    "GetExecutionTypesByID": ("type_ids", "execution_types"),
    "GetContextTypesByID": ("type_ids", "context_types"),
}


def protect(store: mlmd.MetadataStore) -> None:
    """Lets a store write backslashes and answer in the order of the question.

    Wraps the one method through which every request goes.
    """
    call = store._call

    def guarded(method_name: str, request: Message, response: Message, extra_options: object = None) -> None:
        sent = type(request)()
        sent.CopyFrom(request)
        replace(sent, _BACKSLASH, _STAND_IN)
        call(method_name, sent, response, extra_options)
        replace(response, _STAND_IN, _BACKSLASH)
        if method_name in _BY_ID:
            asked, answered = _BY_ID[method_name]
            _put_in_order(getattr(response, answered), list(getattr(request, asked)))

    store._call = guarded


def _put_in_order(items: MutableSequence[Message], ids: Sequence[int]) -> None:
    """Repeats and orders items as the question has them; what there is not stays left out."""
    found = {item.id: type(item).FromString(item.SerializeToString()) for item in items}
    del items[:]
    items.extend(found[identity] for identity in ids if identity in found)


def replace(message: Message, old: str, new: str) -> None:
    """Replaces text in every string of a protocol buffer, at any depth."""
    if old.encode() not in message.SerializeToString():
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _replace_in_map(value, old, new)
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                replace(inner, old, new)
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            value[:] = [text.replace(old, new) for text in value]
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, value.replace(old, new))


def _replace_in_map(values: MutableMapping[str, object], old: str, new: str) -> None:
    for key, value in list(values.items()):
        if isinstance(value, Message):
            replace(value, old, new)
        elif isinstance(value, str):
            values[key] = value.replace(old, new)
