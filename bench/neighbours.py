"""`python -m bench.neighbours`: what a greedy or unlucky tenant does to another one.

Starts the product as `make run` does and makes a second workspace, the attacker's. Then, one attack after the other
(bench/attacks.py), the demo workspace goes on sending (bench/victim.py), and its worst waits are printed, and
what was not answered with a 2xx. `--checkout` runs the product of another checkout, to compare one with the other.

    python -m bench.neighbours                                   all attacks, about five minutes
    python -m bench.neighbours --only held_workspace --seconds 5
    python -m bench.neighbours --checkout ../lariba-before
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.attacks import ATTACKS, LONGER, Attack
from bench.installation import Installation, installation
from bench.senders import lift_limits
from bench.victim import KINDS, Suffered, Tenant, suffering

_WARM_SECONDS = 2.0
# Between two attacks: what the first one has left waiting is answered by then.
_REST_SECONDS = 5.0


def main() -> None:
    """Carry out the attacks and print a line for each."""
    arguments = _read_arguments()
    with (
        tempfile.TemporaryDirectory(prefix="lariba-neighbours-") as folder,
        installation(Path(folder).resolve(), arguments.checkout.resolve()) as product,
    ):
        victim = _victim(product)
        attacker = _attacker(product, arguments.checkout.resolve())
        lift_limits(product)
        with suffering(victim):
            time.sleep(_WARM_SECONDS)
        print(f"{'attack':30}" + "".join(f"{f'{kind}: worst ms, refused':>32}" for kind in KINDS) + "  attacker")
        for name in arguments.only or ATTACKS:
            print(_carry_out(name, Attack(attacker, product.admin_database_url), victim, arguments.seconds), flush=True)
            time.sleep(_REST_SECONDS)


def _carry_out(name: str, attack: Attack, victim: Tenant, seconds: float) -> str:
    notes: list[str] = []
    attacking = threading.Thread(target=lambda: notes.append(ATTACKS[name](attack)), daemon=True)
    with suffering(victim) as found:
        attacking.start()
        attacking.join(LONGER.get(name, seconds))
        attack.over.set()
    attacking.join()
    return f"{name:30}" + "".join(f"{_row(found[kind]):>32}" for kind in KINDS) + f"  {''.join(notes)}"


def _row(suffered: Suffered) -> str:
    refused = suffered.refused.total()
    most = f" ({suffered.refused.most_common(1)[0][0]})" if refused else ""
    return f"{suffered.worst_ms:,.0f}, {refused} of {len(suffered.milliseconds)}{most}"


def _victim(product: Installation) -> Tenant:
    variables = product.variables
    return Tenant(
        product.port,
        variables["LARIBA_SOURCE_ID"],
        variables["LARIBA_SOURCE_KEY"],
        variables["LARIBA_MANAGEMENT_TOKEN"],
    )


def _attacker(product: Installation, checkout: Path) -> Tenant:
    """A workspace of its own, with a source and a key, made as an operator and a dashboard would."""
    settings = {"LARIBA_BROKER_URL": "memory://", "LARIBA_SECRET_KEY": product.secret_key()} | product.variables
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "workspace", "create", "Attacker", "--json"]
    made = subprocess.run(command, cwd=checkout, env=os.environ | settings, check=True, capture_output=True)
    manager = Tenant(product.port, "", "", json.loads(made.stdout)["management_token"])
    _, project = manager.manage("POST", "/v1/projects", {"name": "Attack"})
    _, environments = manager.manage("GET", f"/v1/projects/{project['id']}/environments")
    (environment,) = (each for each in environments["data"] if each["name"] == "production")  # type: ignore[attr-defined]
    path = f"/v1/environments/{environment['id']}/sources"
    _, source = manager.manage("POST", path, {"name": "attacker", "type": "backend"})
    _, key = manager.manage("POST", f"/v1/sources/{source['id']}/keys", {"label": "attack"})
    return Tenant(product.port, str(source["id"]), str(key["key"]), manager.token)


def _read_arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.neighbours", description=__doc__, formatter_class=form)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=12.0, help="of each attack (12)")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1])
    return parser.parse_args()


if __name__ == "__main__":
    main()
