"""Looks into jaxprs."""


def find_equations(jaxpr, name):
    """All equations of one primitive in a jaxpr, at any depth."""
    equations = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            equations.append(equation)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                equations += find_equations(inner, name)
    return equations


def find_scans(jaxpr):
    """Lengths of all scans in a jaxpr, at any depth."""
    return [equation.params["length"] for equation in find_equations(jaxpr, "scan")]
