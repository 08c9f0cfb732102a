"""The folder of all datasets: what may be made there, whole or not at all, by one process at a time."""

import errno
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spot_jax.data import store
from spot_jax.data.download import download
from spot_jax.data.load import open_minari
from spot_jax.data.store import BeingMadeError, Request, new_dataset, resumable
from spot_jax.datasets.__main__ import main
from spot_jax.datasets.listing import show_all
from spot_jax.recipes import parallel
from spot_jax.system.errors import InputError

ID = 'toy/sets/some-v0'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    path = tmp_path / 'store'
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(path))
    return path


def make(dataset_id=ID, text='{}', overwrite=False):
    with new_dataset(dataset_id, overwrite) as folder:
        (folder / 'data').mkdir()
        (folder / 'data' / 'metadata.json').write_text(text)


def fail(context, error):
    """Begins to fill the folder of a context, and fails."""
    with context as folder:
        (folder / 'data').mkdir()
        (folder / 'data' / 'part').touch()
        raise error


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*')) if folder.exists() else []


WHOLE = [
    *('toy', 'toy/namespace_metadata.json', 'toy/sets', 'toy/sets/namespace_metadata.json', 'toy/sets/some-v0'),
    *('toy/sets/some-v0/data', 'toy/sets/some-v0/data/metadata.json'),
]


def test_a_dataset_appears_whole_in_its_namespaces(folder):
    make()
    assert tree(folder) == WHOLE
    assert json.loads((folder / 'toy/namespace_metadata.json').read_text()) == {}
    make(text='new', overwrite=True)
    assert tree(folder) == WHOLE
    assert (folder / ID / 'data/metadata.json').read_text() == 'new'


@pytest.mark.parametrize(
    'dataset_id',
    [
        *('', 'x', 'x-v', '-v0', 'x-v1.5', 'x-v-1', '.x-v0', 'data/x-v0', 'toy/data/x-v0', 'toy/some-v0/data/x-v0'),
        *(
            '/toy/x-v0',
            '//x-v0',
            'toy//x-v0',
            'toy/',
            'toy/x-v0/',
            '../x-v0',
            'toy/../x-v0',
            'toy/../../x-v0',
            './x-v0',
        ),
        *('~/x-v0', 'toy/$HOME-v0', 'toy/x y-v0', 'toy/x\n-v0', 'toy/x-v0\n', 'toy/x\0-v0', 'toy\\x-v0', 'C:/x-v0'),
        *('toy/.x-v0', 'toy/%2e%2e/x-v0', 'toy/-x-v0', 'hf://toy/x-v0', 'toy/x-v0 ', 'toy/\udcff-v0', 'a/x-v0'),
    ],
)
def test_odd_ids_are_refused_before_anything_is_written(folder, tmp_path, dataset_id):
    before = tree(tmp_path)
    with pytest.raises(InputError, match='is no dataset id'):
        make(dataset_id)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ('dataset_id', 'message'),
    [
        (ID, 'is there already'),
        ('toy/sets/some-v0/inner-v0', 'only the last part'),
        ('spot_jax/pointmaze/umaze-v0/deep/inner-v0', 'only the last part'),
        ('toy/plain/inner-v0', 'cannot be in .* which is a dataset itself'),
        ('toy/plain/deep/inner-v0', 'cannot be in .* which is a dataset itself'),
        ('toy/file/x-v0', 'cannot be in .* which is a file'),
        ('toy/others-v0', 'is there, but is no dataset'),
        (f'toy/{"x" * 300}-v0', 'File name too long'),
    ],
)
def test_places_that_are_taken(folder, dataset_id, message):
    make()
    (folder / 'toy/others-v0/one-v0').mkdir(parents=True)
    (folder / 'toy/plain/data').mkdir(parents=True)
    (folder / 'toy/file').touch()
    before = tree(folder)
    with pytest.raises(InputError, match=message):
        make(dataset_id)
    assert tree(folder) == before


def test_a_failure_leaves_what_was_there(folder, monkeypatch):
    make(text='old')
    for error in (KeyboardInterrupt, SystemExit, InputError, ZeroDivisionError):
        with pytest.raises(error):
            fail(new_dataset(ID, True), error)
    rename = Path.rename
    monkeypatch.setattr(
        Path, 'rename', lambda a, b: rename(a, b) if '.old' in f'{a}{b}' else (_ for _ in ()).throw(OSError(5, 'no'))
    )
    with pytest.raises(InputError, match=f'cannot write {ID}: no'):
        make(text='new', overwrite=True)
    assert tree(folder) == WHOLE
    assert (folder / ID / 'data/metadata.json').read_text() == 'old'


def test_a_full_disk_leaves_no_namespaces(folder, monkeypatch):
    def full(path, data):
        raise InputError('full')

    monkeypatch.setattr('spot_jax.storage.checkpoint.write_atomically', full)
    with pytest.raises(InputError, match='full'):
        make()
    assert tree(folder) == []


def test_a_link_to_a_dataset_is_replaced_but_not_what_it_leads_to(folder, tmp_path):
    make()
    (folder / 'toy/link-v0').symlink_to(folder / ID)
    make('toy/link-v0', text='new', overwrite=True)
    assert not (folder / 'toy/link-v0').is_symlink()
    assert (folder / ID / 'data/metadata.json').read_text() == '{}'


def test_what_a_killed_process_left_is_taken_away(folder):
    stale = folder / f'{store.hidden_name(ID)}.tmp'
    (stale / 'data').mkdir(parents=True)
    (stale / 'data/main_data.hdf5').write_bytes(b'half')
    (stale / 'file').touch()
    make()
    assert tree(folder) == WHOLE


def _hold(pipe):
    with new_dataset(ID, False) as folder:
        (folder / 'data').mkdir()
        pipe.send('made')
        pipe.recv()


def test_two_processes_do_not_make_one_dataset(folder, capsys, monkeypatch):
    """The second is refused; a run that needs it waits, and takes the first one's."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(theirs,), daemon=True)
    process.start()
    assert ours.recv() == 'made'
    before = tree(folder)
    with pytest.raises(BeingMadeError, match=f'another process is making {ID}'):
        make()
    assert tree(folder) == before
    calls = []

    def attempt(dataset_id):
        calls.append(dataset_id)
        if len(calls) == 3:
            ours.send('end')
            process.join()
        make(dataset_id)

    monkeypatch.setattr(store, 'POLL', 0)
    store.make_once(ID, attempt)
    assert calls == [ID] * 3
    assert capsys.readouterr().err == f'another process is making {ID}: waiting for it\n'
    assert process.exitcode == 0
    assert tree(folder) == WHOLE[:-1]  # not ours, which has a file of metadata
    store.make_once(ID, fail)  # is there: not called


@pytest.mark.parametrize('command', [['generate', 'spot_jax/pointmaze/umaze-v0', '--transitions=10'], ['import']])
@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written(folder, tmp_path, capsys, monkeypatch, command, number):
    def refuse(self, *args, **options):
        raise OSError(number, os.strerror(number), str(self))

    if command == ['import']:
        with h5py.File(tmp_path / 'x.hdf5', 'w') as file:
            file['observations'], file['actions'] = np.zeros((5, 2)), np.zeros((5, 1))
            file['rewards'], file['terminals'] = np.zeros(5), np.zeros(5)
        command = ['import-d4rl', str(tmp_path / 'x.hdf5'), f'--id={ID}']
    monkeypatch.setattr(Path, 'mkdir', refuse)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert os.strerror(number) in error
    assert str(folder) in error
    assert tree(folder) == []


def test_no_home_directory(monkeypatch, capsys):
    monkeypatch.delenv('MINARI_DATASETS_PATH')
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
    for command in (['list'], ['show', ID], ['generate', 'spot_jax/pointmaze/umaze-v0']):
        assert main(command) == 2
        assert 'MINARI_DATASETS_PATH' in capsys.readouterr().err


def test_the_folder_is_a_file(folder, capsys):
    folder.touch()
    assert main(['generate', 'spot_jax/pointmaze/umaze-v0']) == 2
    assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('error', [KeyboardInterrupt(), SystemExit(143), OSError(28, 'full'), InputError('x')])
def test_parts_outlive_interruptions_and_full_disks(folder, error):
    request = Request(ID, 100)
    folder.mkdir()
    with pytest.raises(type(error)):
        fail(resumable(request), error)
    with resumable(request) as parts:
        assert (parts / 'data' / 'part').exists()
    with resumable(Request(ID, 100, seed=1)) as others:  # which another seed leaves alone
        assert (others / 'data' / 'part').exists() is False
        assert len(list(folder.iterdir())) == 2
        (others / 'part').touch()
    with pytest.raises(type(error)), resumable(Request(ID, 100, seed=2)):
        raise error
    assert len(list(folder.iterdir())) == 2  # of what has made nothing, nothing stays
    with pytest.raises(OSError, match='full'), new_dataset(ID, False), resumable(request):
        raise OSError('full')
    assert len(list(folder.iterdir())) == 2
    with new_dataset(ID, False) as new, resumable(request) as again:
        assert (again / 'data' / 'part').exists()
        (new / 'data').mkdir()
    assert [path.name for path in folder.iterdir()] == [ID.split('/')[0]]  # in its place; nothing goes on


def make_resumably(request):
    with new_dataset(request.dataset_id, False) as new, resumable(request) as parts:
        (new / 'data').mkdir()
        (parts / 'part').touch()


def test_parts_stay_until_the_dataset_is_in_its_place(folder, monkeypatch):
    def refuse(path, other):
        raise PermissionError(13, 'denied', str(path), None, str(other))

    monkeypatch.setattr(Path, 'rename', refuse)
    place = folder / ID
    with pytest.raises(InputError, match=f'cannot write {place}: denied'):
        make_resumably(Request(ID, 100))
    assert len(list(folder.rglob('part'))) == 1


def test_where_nothing_can_be_written_is_told_before_the_work(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(InputError, match=f'cannot write in {folder}'), new_dataset(ID, False):
        raise AssertionError


def test_what_is_being_made_is_listed_once(folder, capsys):
    with new_dataset(ID, False), resumable(Request(ID, 100)):
        show_all()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [f'{store.hidden_name(ID)}: another process is making it']


def _play(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {'actions': np.zeros((1, 1)), 'rewards': np.zeros(1)}


def _numbered(number):
    return {'observations': np.zeros((3, 1)), 'actions': np.full((2, 1), number), 'rewards': np.zeros(2)}


def test_a_part_that_is_missing_is_made_again(tmp_path, monkeypatch):
    """Not passed over: the episodes after it would take its place."""
    monkeypatch.setattr(parallel, 'PART', 6)
    found = lambda: [int(e['actions'][0, 0]) for e in itertools.islice(parallel._stream(_numbered, 1, tmp_path), 8)]
    assert found() == [*range(8)]
    first, second = sorted(tmp_path.iterdir())
    assert (first.stem, second.stem) == ('0000000000', '0000000003')
    first.unlink()
    assert found() == [*range(8)]


def test_a_process_that_dies_is_named(tmp_path):
    with pytest.raises(InputError, match='has died'):
        list(parallel.episodes(_play, 100, 1, tmp_path / 'parts'))


# An import that stops in the middle, until a signal comes.
STUCK = """
import itertools, runpy, sys, time
from spot_jax.data import d4rl
read, reads = d4rl.read, itertools.count()
stop = lambda: (print('stuck', flush=True), time.sleep(600))
d4rl.read = lambda *args, **options: (next(reads) == 20 and stop()) or read(*args, **options)
sys.argv = ['datasets', *sys.argv[1:]]
runpy.run_module('spot_jax.datasets', run_name='__main__')
"""


def test_an_interrupted_import_leaves_nothing_that_the_next_trips_over(folder, tmp_path, capsys):
    path = tmp_path / 'x.hdf5'
    with h5py.File(path, 'w') as file:
        file['observations'], file['actions'] = np.zeros((2000, 2)), np.zeros((2000, 1))
        file['rewards'], file['terminals'] = np.zeros(2000), np.arange(2000) % 50 == 49
    ends = {signal.SIGINT: (130, 'stopped\n'), signal.SIGTERM: (143, 'stopped\n'), signal.SIGKILL: (-9, '')}
    commands = {number: ['import-d4rl', str(path), f'--id=toy/{number.name}-v0'] for number in ends}
    processes = {
        number: subprocess.Popen([sys.executable, '-c', STUCK, *command], stdout=-1, stderr=-1, text=True)
        for number, command in commands.items()
    }
    for number, process in processes.items():
        assert process.stdout.readline() == 'stuck\n'
        assert (folder / f'.toy-{number.name}-v0.tmp' / 'data' / 'main_data.hdf5').exists()
        process.send_signal(number)
        errors = process.communicate()[1]
        assert (process.returncode, errors) == ends[number]
    assert [path.name for path in folder.iterdir()] == ['.toy-SIGKILL-v0.tmp']
    show_all()
    assert '.toy-SIGKILL-v0.tmp: unfinished' in capsys.readouterr().out
    for number, command in commands.items():
        assert main(command) == 0
        assert open_minari(f'toy/{number.name}-v0').total_steps == 2000
    assert [path.name for path in folder.iterdir()] == ['toy']


def test_a_download_appears_whole_and_goes_on(folder, monkeypatch, capsys):
    def fetch(dataset_id, fails=False):
        top = Path(os.environ['MINARI_DATASETS_PATH'])
        assert not (top / dataset_id).exists()  # Minari takes it to be whole
        (top / dataset_id / 'data').mkdir(parents=True)
        (top / dataset_id / 'data' / 'metadata.json').write_text('{}')
        (top / 'part').write_text('half')
        if fails:
            raise OSError(28, 'No space left on device', str(top / 'part'))

    monkeypatch.setattr('minari.download_dataset', lambda dataset_id: fetch(dataset_id, fails=True))
    with pytest.raises(InputError, match=r'cannot write .*part: No space left on device'):
        download(ID)
    assert os.environ['MINARI_DATASETS_PATH'] == str(folder)
    assert [path.name for path in folder.iterdir()] == [f'{store.hidden_name(ID)}-download']
    show_all()
    assert 'unfinished' in capsys.readouterr().out
    monkeypatch.setattr('minari.download_dataset', fetch)
    download(ID)
    assert tree(folder) == WHOLE


@pytest.mark.parametrize(
    'error', [ValueError("Couldn't find any"), OSError('no network'), ConnectionRefusedError(111, 'refused')]
)
def test_a_download_of_nothing_leaves_nothing(folder, monkeypatch, error):
    def fetch(dataset_id):
        raise error

    monkeypatch.setattr('minari.download_dataset', fetch)
    with pytest.raises(InputError, match='cannot open the dataset'):
        open_minari(ID)
    assert tree(folder) == []
