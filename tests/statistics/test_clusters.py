"""Clips of unknown speakers: clusters of their own, and none at all with fewer than two speakers."""

import pytest

from flexicodec.statistics import bootstrap, clusters, num_speakers


def test_a_clip_without_a_speaker_is_its_own_cluster():
    speakers = ["a", None, "a", "b", None, ""]
    assert clusters(speakers, range(6)) == ["speaker a", "clip 1", "speaker a", "speaker b", "clip 4", "clip 5"]
    assert num_speakers(speakers) == 2
    drawn = clusters(speakers, range(6))
    assert bootstrap(lambda each: each.mean(), range(6), clusters=drawn, resamples=10).clusters == 5


def test_a_speaker_and_a_clip_of_the_same_name_are_not_one():
    assert len(set(clusters(["a", "b", None], ["x", "y", "a"]))) == 3


@pytest.mark.parametrize("speakers", [[None, None], ["a", "a"], ["a", None], []])
def test_fewer_than_two_speakers_leave_clips(speakers):
    assert clusters(speakers, range(len(speakers))) is None


def test_every_clip_needs_an_id():
    with pytest.raises(ValueError, match="2 speakers and 1 ids"):
        clusters(["a", "b"], ["x"])
