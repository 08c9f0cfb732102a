"""The benchmark's baseline computes what the package computes, and its operations are counted right."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import antmaze
from spot_jax.benchmark import files, memory, online, products, rounding, scaling
from spot_jax.benchmark.__main__ import main
from spot_jax.benchmark.phases import case, data_of_rows, random_rows, update_flops, whole_blocks
from spot_jax.core.networks import CVAE, DoubleCritic
from spot_jax.core.types import unpack
from spot_jax.methods import spot
from spot_jax.methods.density import cvae_loss_fn
from spot_jax.population import program
from spot_jax.run.config import members
from spot_jax.system.errors import InputError

EXPERIMENTS = Path(antmaze.__file__).parent
OBSERVATION, ACTION, BATCH = 5, 3, 16


def tiny_config():
    config = antmaze.get_config()
    config.update_from_flattened_dict(
        {'batch_size': BATCH, 'cvae.hidden_dims': (8, 8), 'actor.hidden_dims': (8, 8), 'critic.hidden_dims': (8, 8)}
    )
    return config


def test_rounding_reaches_every_product():
    """Of learning networks and of frozen ones, with norms and without; to 23 bits it changes nothing."""
    observations, actions, noise = (jax.random.normal(jax.random.key(i), (BATCH, n)) for i, n in enumerate((5, 3, 6)))
    for network, inputs, call in (
        (CVAE(ACTION, (8, 8)), (observations, actions, noise), None),
        (CVAE(ACTION, (8, 8), frozen=True), (observations, actions, noise), None),
        (DoubleCritic((8, 8)), (observations, actions), 'first'),
        (DoubleCritic((8, 8), layer_norm=True), (observations, actions), 'first'),
    ):
        params = network.init(jax.random.key(9), *inputs)
        of = lambda n=network, p=params, x=inputs, c=call: getattr(n, c)(p, *x) if c else n.apply(p, *x)
        exact = of()
        with rounding.rounded_to(23):
            np.testing.assert_allclose(of(), exact, rtol=1e-6, atol=1e-6)
        with rounding.rounded_to(7):
            rounded = of()
        np.testing.assert_array_less(1e-4, np.abs(rounded - exact).max())
        np.testing.assert_allclose(rounded, exact, atol=0.05)


def test_operations_by_hand():
    config = antmaze.get_config()
    hidden = 256 * 256
    actor, critic = 29 * 256 + hidden + 256 * 8, 37 * 256 + hidden + 256
    encoder, decoder = 37 * 750 + 750 * 750 + 750 * 32, 45 * 750 + 750 * 750 + 750 * 8
    targets = 2 * (actor + 2 * critic)
    critics = 2 * 2 * (3 * critic - 37 * 256)
    actor_step = 3 * actor - 29 * 256 + 2 * critic
    per_block = 2 * 256 * (targets + critics + actor_step + 2 * (encoder + decoder))
    assert update_flops(config, (29, 8), 'policy') == per_block / 2
    assert update_flops(config, (29, 8), 'cvae') == 2 * 256 * (3 * (encoder + decoder) - 37 * 750)
    config.regularizer.name = 'bc'
    without = update_flops(config, (29, 8), 'policy')
    assert per_block / 2 - without == 256 * 2 * (encoder + decoder)


def test_baseline_has_the_same_losses_and_gradients():
    """To 1e-5: the two libraries add up in other orders."""
    torch = pytest.importorskip('torch')
    from spot_jax.benchmark.baseline import Baseline, copy_weights

    config = tiny_config()
    config.regularizer.num_samples = 4
    spec = spot.make_spec(config, OBSERVATION, ACTION)
    everyone = members(config)
    hypers = jax.tree.map(lambda x: x[0, 0], everyone.hyperparameters())
    rows = random_rows((OBSERVATION, ACTION))
    baseline = Baseline(spec, rows, 0.25, 0.5, 0.99, tuned=True)
    seeds = jnp.array([3], jnp.uint32)
    pick = lambda tree: jax.tree.map(lambda x: x[0], tree)
    cvae = pick(program.init_stage(seeds, spot.cvae_stage(spec)).learner.params)
    state = jax.tree.map(lambda x: x[0, 0], program.init_policies(seeds, 1, spot.algorithm(spec)).learner)
    copy_weights(baseline.encoder, cvae['params']['encoder'])
    copy_weights(baseline.decoder, cvae['params']['decoder'])
    copy_weights(baseline.actor, state.actor.params['params']['MLP_0'])
    for i in range(2):
        copy_weights(baseline.critics[i], jax.tree.map(lambda x, i=i: x[i], state.critic.params['params']['twin']))
    baseline.reset()

    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    batch = unpack(jnp.asarray(rows[:BATCH]), OBSERVATION, ACTION)
    theirs = torch.from_numpy(rows[:BATCH]).split(baseline.columns, dim=-1)
    target_noise, latent_noise, cvae_noise = (
        normal(BATCH, ACTION),
        normal(BATCH, 4, 2 * ACTION),
        normal(BATCH, 2 * ACTION),
    )
    key = jax.random.key(0)
    noise = spot.Noise(jnp.asarray(target_noise), jnp.asarray(latent_noise), key, key)

    ours = jax.grad(cvae_loss_fn, has_aux=True)(cvae, spec.cvae, batch, jnp.asarray(cvae_noise), hypers.beta)
    loss = baseline.cvae_loss(theirs[0], theirs[1], torch.from_numpy(cvae_noise)[:, None])
    assert_same(loss, baseline.encoder, ours[1]['cvae_loss'], ours[0]['params']['encoder'])

    target = spot.target_values(state, spec.td3, batch, noise, hypers)
    with torch.no_grad():
        their_target = baseline.target_q(*theirs[2:], torch.from_numpy(target_noise))
    np.testing.assert_allclose(their_target[:, 0].numpy(), target, rtol=1e-5, atol=1e-6)
    ours = jax.grad(spot.critic_loss_fn, has_aux=True)(state.critic.params, spec.td3, batch, target)
    loss = baseline.critic_loss(theirs[0], theirs[1], their_target)
    second = jax.tree.map(lambda x: x[1], ours[0]['params']['twin'])
    assert_same(loss, baseline.critics[1], ours[1]['critic_loss'].mean(), second)

    ours = jax.grad(spot.actor_loss_fn, has_aux=True)(
        state.actor.params, spec.td3, state.critic.params, cvae, batch, noise, hypers
    )
    loss = baseline.actor_loss(theirs[0], torch.from_numpy(latent_noise))
    assert_same(loss, baseline.actor, ours[1]['actor_loss'].mean(), ours[0]['params']['MLP_0'])


def assert_same(loss, net, our_loss, our_grads):
    net.zero_grad()
    loss.backward()
    assert loss.item() == pytest.approx(float(our_loss), rel=1e-5)
    linear = [layer for layer in net if hasattr(layer, 'weight')]
    for i, layer in enumerate(linear):
        np.testing.assert_allclose(layer.weight.grad.T, our_grads[f'Dense_{i}']['kernel'], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.bias.grad, our_grads[f'Dense_{i}']['bias'], rtol=1e-5, atol=1e-6)


def test_updates_that_are_counted_are_made():
    """A phase makes whole blocks: of the policy, two steps."""
    config = tiny_config()
    for phase, steps, made in (('policy', 1, 2), ('policy', 11, 10), ('cvae', 3, 3)):
        assert whole_blocks(config, (OBSERVATION, ACTION), phase, steps) == made
    one = case('', config, data_of_rows(random_rows((OBSERVATION, ACTION), 1000)), 'policy', (OBSERVATION, ACTION), 1)
    assert one.steps == 2
    assert {row['steps'] for row in rounding.losses(config, (OBSERVATION, ACTION), 1)} == {1}


def test_products_alone_are_those_of_an_update(monkeypatch):
    """Of behaviour cloning, by hand: three layers forward, the gradients of each kernel and of what two layers take."""
    config = antmaze.get_config('umaze,bc')
    config.update_from_flattened_dict({'bc.batch_size': BATCH, 'bc.hidden_dims': (7, 6)})
    ran = []
    dot_general = jax.lax.dot_general

    def noted(x, y, dimension_numbers):
        product = dot_general(x, y, dimension_numbers)
        ran.append((product.shape, x.size * y.size))
        return product

    monkeypatch.setattr(jax.lax, 'dot_general', noted)
    made = products.case('bc', config, (OBSERVATION, ACTION), 'policy', 3)
    made.run(3)
    sizes = [(OBSERVATION, 7), (7, 6), (6, ACTION)]
    forward = [((BATCH, o), BATCH * i * i * o) for i, o in sizes]
    kernels = [((i, o), BATCH * i * BATCH * o) for i, o in sizes]
    inputs = [((BATCH, i), BATCH * o * i * o) for i, o in sizes[1:]]
    assert sorted(ran) == sorted(forward + kernels + inputs)
    assert made.flops == sum(2 * BATCH * i * o * (3 - (i == OBSERVATION)) for i, o in sizes)


def test_command(tmp_path, capsys):
    path = tmp_path / 'figures.json'
    command = [
        f'--config={EXPERIMENTS}/pointmaze.py:umaze',
        '--observation-dim=4',
        '--action-dim=2',
        '--no-torch',
        '--device=cpu',
    ]
    command += ['--steps=4', '--rounds=1', '--members=2', f'--json={path}']
    assert main(command) == 0
    figures = json.loads(path.read_text())
    one = [f'{name} | {kind}' for name in ('cvae', 'policy L=1', 'policy L=10') for kind in ('spot_jax', 'products')]
    assert [row['case'] for row in figures[1:]] == [*one, 'policy L=1 M=2 | spot_jax']
    assert [row['gflop_per_update'] for row in figures[1:7:2]] == [row['gflop_per_update'] for row in figures[2:7:2]]
    assert all(row['updates_per_s'] > 0 and row['memory_mib'] > 0 for row in figures[1:])
    assert main(command) == 2
    assert 'figures.json exists: give --overwrite' in capsys.readouterr().err


def test_a_device_that_is_not_there(capsys):
    before = jax.config.jax_platforms
    try:
        assert main([f'--config={EXPERIMENTS}/pointmaze.py:umaze', '--device=nonsense']) == 2
    finally:
        jax.config.update('jax_platforms', before)
    assert '--device=nonsense: jax finds no such device' in capsys.readouterr().err


def test_scaling_command(tmp_path, monkeypatch):
    axes = {'members': ((1, 3), scaling.AXES['members'][1]), 'batch size': ((8, 16), scaling.AXES['batch size'][1])}
    monkeypatch.setattr(scaling, 'AXES', axes)
    data, picture = tmp_path / 'scaling.json', tmp_path / 'scaling.png'
    command = [f'--config={EXPERIMENTS}/pointmaze.py:umaze', '--observation-dim=4', '--action-dim=2', '--scaling']
    data.write_text('of before')
    outputs = [f'--json={data}', f'--plot={picture}', '--overwrite']
    assert main([*command, '--steps=4', '--rounds=1', *outputs]) == 0
    rows = json.loads(data.read_text())
    assert [(row['axis'], row['value']) for row in rows] == [
        *[('members', 1), ('members', 3)],
        *[('batch size', 8), ('batch size', 16)],
    ]
    assert rows[1]['ms_of_products'] == pytest.approx(3 * rows[0]['ms_of_products'])
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_methods_command(tmp_path, capsys):
    path = tmp_path / 'figures.json'
    command = [f'--config={EXPERIMENTS}/pointmaze.py:umaze', '--observation-dim=4', '--action-dim=2', '--methods']
    short = ['--steps=4', '--rounds=1', '--members=2', f'--json={path}']
    assert main([*command, *short, '--only=^(spot|bc)$']) == 0
    _, *rows = json.loads(path.read_text())
    assert [row['case'] for row in rows] == ['spot M=2', 'spot | products', 'spot cvae', 'bc M=2', 'bc | products']
    assert rows[-1]['gflop_per_update'] == rows[-2]['gflop_per_update']
    share = f'{100 * rows[-2]["updates_per_s"] / rows[-1]["updates_per_s"]:.0f}%'
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith('bc M=2')]
    assert share in line.split()
    actor = 4 * 256 + 256 * 256 + 256 * 2
    assert rows[-1]['gflop_per_update'] == pytest.approx(256 * 2 * (3 * actor - 4 * 256) / 1e9)
    for only, words in {'(': "'(' is no regular expression", 'none': 'the name of no method: spot, bc'}.items():
        assert main([*command, f'--only={only}']) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ('command', 'arguments', 'words'),
    [
        (main, ['--gpu', '--methods'], 'not allowed with argument --gpu'),
        (main, ['--only=bc'], '--only is for --gpu and --methods'),
        (main, ['--limit=60'], '--limit is for --gpu'),
        (main, ['--scaling', '--dataset=x/y-v0'], '--dataset is for --gpu'),
        (main, ['--plot=x.png'], '--plot is the picture of --scaling'),
        (main, ['--scaling', '--plot=x.txt'], 'pictures are PNG'),
        (main, ['--gpu', '--limit=59'], 'not a whole number from 60'),
        (main, ['--gpu', '--no-torch', '--only=zzz'], '--only=zzz: no case is called so: they begin with machine'),
        (main, ['--kernels', '--json=FILE'], 'exists: give --overwrite, or another --json'),
        (main, ['--kernels', '--json=FILE/x.json'], 'cannot write in'),
        (memory.main, ['--json=FILE'], 'exists: give --overwrite, or another --json'),
        (memory.main, ['--offline', '--restart'], '--restart is of fine-tuning, not of --offline'),
        (online.main, ['--json=FILE'], 'exists: give --overwrite, or another --json'),
        (
            main,
            [f'--config={EXPERIMENTS}/pointmaze.py:umaze,iql'],
            'umaze,iql: its method is iql, and what is measured',
        ),
        (memory.main, [f'--config={EXPERIMENTS}/pointmaze.py:umaze,bc', '--offline'], 'umaze,bc: its method is bc'),
        (memory.main, [f'--config={EXPERIMENTS}/pointmaze.py:umaze,bc'], 'umaze,bc: its method is bc'),
        (online.main, [f'--config={EXPERIMENTS}/pointmaze.py:umaze,bc'], 'umaze,bc: its method is bc'),
        (online.main, ['--environment=nope-v9'], "--environment=nope-v9: Environment `nope` doesn't exist"),
    ],
)
def test_mistakes_are_a_line_before_the_measuring(command, arguments, words, tmp_path, capsys):
    file = tmp_path / 'file'
    file.write_text("a user's")
    assert command([argument.replace('FILE', str(file)) for argument in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert file.read_text() == "a user's"
    assert list(tmp_path.iterdir()) == [file]


def test_figures_on_a_full_disk_leave_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('spot_jax.storage.outputs.write_together', full)
    with pytest.raises(InputError, match=r'cannot write .*No space left on device'):
        files.write_json(tmp_path / 'new' / 'figures.json', [])
    assert list(tmp_path.iterdir()) == []
