"""Ids sort by time, and loading the same data twice gives the same ids."""

import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from contract.ids import is_uuid, stable_id, uuid7, uuid7_millis

moments = st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.integers(0, 2**48 - 1))
def test_a_uuid7_is_malformed_or_forgets_its_time(millis):
    text = uuid7(millis)
    assert is_uuid(text)
    assert (uuid.UUID(text).version, uuid.UUID(text).variant) == (7, uuid.RFC_4122)
    assert uuid7_millis(text) == millis


@given(st.text(), moments)
def test_the_same_row_gets_another_id_when_loaded_again(key, moment):
    text = stable_id(key, moment)
    assert text == stable_id(key, moment)
    assert text != stable_id(key + "x", moment)
    assert uuid7_millis(text) == int(moment.timestamp() * 1000 + 1e-4)
    assert uuid.UUID(text).version == 7


def test_a_uuid_of_another_version_is_given_a_time():
    assert uuid7_millis(str(uuid.uuid4())) is None
