"""The interface to netlab for the scripts in this folder, and a cluster of p2pfs on its nodes."""
import os, shutil, signal, subprocess, sys, tempfile
from contextlib import contextmanager

HERE = os.path.dirname(os.path.realpath(__file__))
NETLAB = f'{HERE}/netlab'
PORT = 1378

# on SIGTERM, a script removes the laboratory before it ends
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def program_argument(parser):
    parser.add_argument('--program', type=os.path.abspath, default=f'{HERE}/../../target/release/p2pfs')


def can_run(script, program):
    """Returns whether a script can run. Prints what is missing."""
    missing = None
    if os.geteuid() != 0:
        missing = 'network namespaces need root'
    elif not os.path.exists(program):
        missing = f'there is no {program}; build it with cargo build --release'
    if missing:
        print(f'{script}: not run: {missing}')
    return not missing


def netlab(*words):
    subprocess.run([NETLAB, *map(str, words)], check=True)


def node(number, command, **more):
    """Starts a command on a node, in its net and mount namespaces."""
    return subprocess.Popen([NETLAB, 'exec', f'n{number}', '--', *command], **more)


def uplink_bytes(number):
    text = subprocess.run([NETLAB, 'exec', f'n{number}', '--', 'cat',
                           '/sys/class/net/eth0/statistics/tx_bytes'], capture_output=True, text=True)
    return int(text.stdout)


def bits(rate):
    """Converts a rate in netlab's notation, such as 50mbit, to bits per second."""
    return float(rate[:-4]) * {'k': 1e3, 'm': 1e6, 'g': 1e9}[rate[-4]]


def secret(home):
    path = f'{home}/secret'
    with open(path, 'w') as f:
        f.write(os.urandom(32).hex() + '\n')
    os.chmod(path, 0o600)
    return path


@contextmanager
def lab(count, *options):
    netlab('up', count, *options)
    try:
        yield
    finally:
        netlab('down')


@contextmanager
def ended(processes):
    """Ends all processes when the block ends."""
    try:
        yield processes
    finally:
        end(processes)


def end(processes):
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def daemon(program, number, own, shared_secret, *words):
    """Starts the daemon of a node, with its data and its log below the directory `own`."""
    command = [program, 'daemon', '--name', f'n{number}', '--listen', f'10.77.0.{number}:{PORT}',
               '--state', f'{own}/state', '--cache', f'{own}/cache', '--socket', f'{own}/socket',
               '--secret-file', shared_secret, *words]
    with open(f'{own}/log', 'a') as log:
        return node(number, command, stdout=log, stderr=log)


@contextmanager
def cluster(program, home, count, share, mounted):
    """Runs nodes n1 to nN, of which n1 shares a folder. Yields their socket paths and processes.

    The data of a node is below HOME/pI, and its mount is HOME/pI/mount.
    """
    shared_secret, sockets = secret(home), []
    with ended([]) as daemons:
        for i in range(1, count + 1):
            own = f'{home}/p{i}'
            os.makedirs(f'{own}/mount')
            sockets.append(f'{own}/socket')
            words = ['--share', share] if i == 1 else ['--seed', f'10.77.0.1:{PORT}']
            words += ['--mount', f'{own}/mount'] if mounted else []
            daemons.append(daemon(program, i, own, shared_secret, *words))
        yield sockets, daemons


def wait(program, home, sockets, *words):
    """Waits until every node sees all others and what `words` name, or ends the script and keeps the logs."""
    for i, socket in enumerate(sockets, 1):
        command = [program, 'wait', '--socket', socket, '--timeout', '60s']
        if subprocess.run(command + ['--peers', str(len(sockets) - 1), *words]).returncode:
            kept = tempfile.mkdtemp(prefix='lab.kept.')
            shutil.copytree(home, kept, dirs_exist_ok=True,
                            ignore=lambda *_: ['share', 'cache', 'mount'])
            sys.exit(f'n{i} did not see what it waits for; what its node says is in {kept}/p{i}/log')
