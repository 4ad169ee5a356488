import ast
from pathlib import Path

DEMO = Path(__file__).parents[2] / "demo"


def test_demo_imports_nothing_from_inside() -> None:
    for path in DEMO.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            inside = {name.split(".")[0] for name in names} & {
                "cluster",
                "services",
                "pipelines",
                "trivium",
                "ray",
                "vllm",
            }
            assert not inside, f"{path.name} imports {inside}"
