"""Patch names of BigEarthNet are recognised, and similar ones are not."""

import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure.audit.judge.patch_names import key_remark
from ben_secure.errors import Rule
from ben_secure.pages.reader import PageReader

NAMES = [
    b"S2A_MSIL2A_20170613T101031_87_48",
    b"S2B_MSIL2A_20180204T94161_57_38",
    b"S2A_MSIL2A_20170617T113321_4_5",
    b"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
    b"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48",
    b"S1B_IW_GRDH_1SDV_20180204T043253_35VPK_0_9",
]

# Each one change away from a name.
OTHERS = [
    b"",
    b"S2C_MSIL2A_20170613T101031_87_48",
    b"S2A_MSIL1C_20170613T101031_87_48",
    b"S2A_MSIL2A_20171313T101031_87_48",
    b"S2A_MSIL2A_20170632T101031_87_48",
    b"S1A_IW_GRDH_1SDV_20170613T245043_33UUP_87_48",
    b"S1A_IW_GRDH_1SDV_20170613T166043_33UUP_87_48",
    b"S2A_MSIL2A_20170613T1031_87_48",
    b"S2A_MSIL2A_20170613T101031_87",
    b"S2A_MSIL2A_20170613T101031_87_148",
    b"S2A_MSIL2A_20170613T101031_87_48\n",
    b" S2A_MSIL2A_20170613T101031_87_48",
    b"s2a_msil2a_20170613t101031_87_48",
    b"S2A_MSIL2A_20170613T101031_87_4\xd9\xa8",
    b"S2A_MSIL2A_20170613T101031_N9999_R144_T33UUP_26_57",
    b"S2A_MSIL2A_20170613T101031_N9999_R022_33UUP_26_57",
    b"S2A_MSIL2A_20170613T101031_N9999_R022_T61UUP_26_57",
    b"S2A_MSIL2A_20170613T101031_N9999_R022_T33IUP_26_57",
    b"S2A_MSIL2A_20170613T101031_N999_R022_T33UUP_26_57",
    b"S1A_IW_GRDH_1SDV_20170613T165043_T33UUP_87_48",
    b"S1A_IW_GRDH_1SDH_20170613T165043_33UUP_87_48",
    b"S1A_IW_GRDH_1SDV_20170613T65043_33UUP_87_48",
    b"S1A_IW_GRDH_1SDV_20170613T165043_87_48",
]


@pytest.mark.parametrize("name", NAMES)
def test_patch_names_are_known(name):
    """Both sensors and versions are recognised, and hours or positions of one digit."""
    assert key_remark(name) is None


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_a_patch_name_gets_a_note(name):
    """A wrong satellite, product, date, tile or place, and anything before or behind the name."""
    remark = key_remark(name)
    assert (remark.rule, remark.lmdb_key, str(remark.level)) == (Rule.KEY_NAME, name, "note")
    assert "patch name of BigEarthNet v1 or v2, such as S2A_MSIL2A_20170613T101031_87_48" in remark.message


def test_real_names_are_known(real_data):
    """Every key of the databases that the original packages and rico-hdl wrote."""
    names = set()
    for path in real_data.rglob("data.mdb"):
        with PageReader(path) as reader:
            names.update(reader.keys())
    assert len(names) == 14
    assert [name for name in names if key_remark(name)] == []


@pytest.mark.threat("T2")
@given(st.binary(max_size=511) | st.builds(bytes.__add__, st.sampled_from(NAMES), st.binary(max_size=300)))
def test_any_key_gets_an_answer(name):
    """For any bytes, in little time."""
    remark = key_remark(name)
    assert remark is None or remark.lmdb_key == name


def test_a_key_costs_little():
    """A key takes a microsecond, or ten on a busy machine."""
    assert min(timeit.repeat(lambda: key_remark(NAMES[0]), timer=time.process_time, number=10_000)) < 0.1
