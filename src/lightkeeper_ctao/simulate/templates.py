"""Templates of the three streams, written once by the library that the telescopes use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from protozfits import numpy_to_any_array as _array

from lightkeeper_ctao.layout import ArrayElement
from lightkeeper_ctao.simulate.observation import SUB, TEL, TRG
from lightkeeper_ctao.simulate.showers import high_resolution
from lightkeeper_ctao.simulate.stamp import BEGIN_MARK, OBS_MARK, SB_MARK, Template, template_of
from lightkeeper_ctao.simulate.tables import TableFile, quiet_writer

_PIXELS, _SAMPLES, _ROWS = 64, 36, 20


def telescope_template(element: ArrayElement) -> Template:
    """One event of one telescope, of a few pixels: about 40 kB."""
    seconds, quarters = high_resolution(BEGIN_MARK)
    stream = TEL.DataStream(
        tel_id=element.ae_id, sb_id=SB_MARK, obs_id=OBS_MARK, waveform_scale=80.0, waveform_offset=5.0
    )
    camera = TEL.CameraConfiguration(
        tel_id=element.ae_id,
        local_run_id=1,
        config_time_s=1.0,
        camera_config_id=1,
        num_pixels=_PIXELS,
        pixel_id_map=_array(np.arange(_PIXELS, dtype=np.uint16)),
        module_id_map=_array(np.arange(9, dtype=np.uint16)),
        num_channels=1,
        num_samples_nominal=_SAMPLES,
        num_modules=9,
        sampling_frequency=1024,
        data_model_version="1.0",
    )
    waveform = np.random.default_rng(element.ae_id).integers(350, 600, _PIXELS * _SAMPLES).astype(np.uint16)
    event = TEL.Event(
        event_id=1,
        tel_id=element.ae_id,
        event_type=32,
        event_time_s=seconds,
        event_time_qns=quarters,
        pixel_status=_array(np.full(_PIXELS, 13, np.uint8)),
        waveform=_array(waveform),
        num_channels=1,
        num_samples=_SAMPLES,
        num_pixels_survived=_PIXELS,
    )
    return _template((("DataStream", stream), ("CameraConfiguration", camera)), "Events", [event])


def subarray_template(subarray_id: int, elements: Sequence[ArrayElement]) -> Template:
    """Some events of a subarray: about 26 kB."""
    seconds, quarters = high_resolution(BEGIN_MARK)
    ids = np.array([element.ae_id for element in elements[:2]], dtype=np.uint16)
    stream = SUB.DataStream(subarray_id=subarray_id, sb_id=SB_MARK, obs_id=OBS_MARK, producer_id=1)
    events = [
        SUB.Event(
            event_id=number + 1,
            trigger_type=1,
            event_time_s=seconds,
            event_time_qns=quarters,
            trigger_ids=_array(np.arange(len(ids), dtype=np.uint64)),
            tel_ids_with_trigger=_array(ids),
            tel_ids_with_data=_array(ids),
        )
        for number in range(_ROWS)
    ]
    return _template((("DataStream", stream),), "SubarrayEvents", events)


def trigger_template(elements: Sequence[ArrayElement]) -> Template:
    """Some telescope triggers of an array: about 26 kB."""
    seconds, quarters = high_resolution(BEGIN_MARK)
    ids = np.array([element.ae_id for element in elements], dtype=np.uint16)
    stream = TRG.DataStream(tel_ids=_array(ids), sb_id=SB_MARK, obs_id=OBS_MARK, producer_id=1)
    triggers = [
        TRG.Trigger(
            tel_id=elements[0].ae_id,
            trigger_id=number,
            trigger_type=1,
            trigger_time_s=seconds,
            trigger_time_qns=quarters,
            readout_requested=True,
            data_available=True,
            hardware_stereo_trigger_mask=1,
        )
        for number in range(_ROWS)
    ]
    return _template((("DataStream", stream),), "Triggers", triggers)


def _template(tables: Sequence[tuple[str, object]], long_table: str, rows: Sequence[object]) -> Template:
    with quiet_writer():
        file = TableFile(Path("template"), BEGIN_MARK, tables, long_table, max_rows=max(len(rows), _ROWS))
        for row in rows:
            file.write(row, BEGIN_MARK)
        return template_of(file.finish())
