"""What tests/compose/run asks of Jaeger and Prometheus, with nothing but Python's own library.

look.py ports N                              free ports of this machine
look.py image SERVICE < CONFIG               the image of a service, of what `compose config` prints
look.py trace URL                            a visit of the storefront is one trace, every parent right
look.py figures URL DASHBOARD ALERTS         Prometheus has the shop's figures, and understands both files
"""

import json
import re
import socket
import sys
import time
import urllib.parse
import urllib.request

# How long something may take to come to be, in seconds.
LIMIT = 120

METHODS = {
    "shop.v1.Orders/GetOrder": "orders",
    "shop.v1.Inventory/Reserve": "inventory-1",
    "shop.v1.OrderLog/Replicate": "log-1",
}
APPS = 5


def get(url, **parameters):
    if parameters:
        url += "?" + urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def until(what, look):
    """Asks again until `look` returns something; it raises what is wrong meanwhile."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return look()
        except (OSError, AssertionError) as why:
            if time.monotonic() > deadline:
                sys.exit(f"waited {LIMIT} s in vain until {what}: {why}")
        time.sleep(1)


def ports(count):
    found = [socket.socket() for _ in range(count)]
    for one in found:
        one.bind(("127.0.0.1", 0))
    print(*(one.getsockname()[1] for one in found))


def image(service):
    found = re.search(
        rf"^  {re.escape(service)}:\n(?:    .*\n)*?    image: (\S+)$", sys.stdin.read(), re.M
    )
    print(found[1].strip("'\""))


def tree(trace):
    """The spans of a trace by their parents; every parent is there, and there is one root."""
    spans = {span["spanID"]: span for span in trace["spans"]}
    below, roots = {}, []
    for span in spans.values():
        parents = [it["spanID"] for it in span["references"] if it["refType"] == "CHILD_OF"]
        assert all(parent in spans for parent in parents), f"a parent of {span} is missing"
        for parent in parents:
            below.setdefault(parent, []).append(span)
        if not parents:
            roots.append(span)
    assert len(roots) == 1, f"{len(roots)} roots"
    return roots[0], below


def tag(span, name):
    return next((it["value"] for it in span["tags"] if it["key"] == name), None)


def visit(trace):
    """One visit: its span, and from there to each of three services app, sidecar, sidecar, app."""
    root, below = tree(trace)
    apps = {key: it["serviceName"] for key, it in trace["processes"].items()}
    nodes = {
        key: next((tag["value"] for tag in it.get("tags", []) if tag["key"] == "sidelane.node"), None)
        for key, it in trace["processes"].items()
    }
    assert root["operationName"] == "checkout" and apps[root["processID"]] == "storefront"
    assert len(trace["spans"]) == 13, f"{len(trace['spans'])} spans"
    methods = set()
    for call in below[root["spanID"]]:
        method = call["operationName"]
        methods.add(method)
        way = [call]
        while way[-1]["spanID"] in below:
            (last,) = below[way[-1]["spanID"]]
            way.append(last)
        assert [span["operationName"] for span in way] == [method] * 4, way
        kinds = [tag(span, "span.kind") for span in way]
        assert kinds == ["client", "client", "server", "server"], kinds
        statuses = [tag(span, "rpc.response.status_code") for span in way]
        assert statuses == ["OK"] * 4, statuses
        # The storefront's app and its sidecar, the callee's sidecar and its app.
        assert apps[way[0]["processID"]] == "storefront", apps
        assert nodes[way[1]["processID"]] == "storefront", nodes
        callee = apps[way[3]["processID"]]
        assert callee.startswith(METHODS[method]) and nodes[way[2]["processID"]] == callee, callee
        lane = "bifrost_data" if "OrderLog" in method else "general"
        assert {tag(span, "sidelane.lane") for span in way[1:3]} == {lane}, method
    assert methods == set(METHODS), methods
    return [(root, 0)] + list(flat(root, below, 1)), apps


def flat(span, below, depth):
    for child in sorted(below.get(span["spanID"], []), key=lambda it: it["startTime"]):
        yield child, depth
        yield from flat(child, below, depth + 1)


def trace(url):
    def look():
        traces = get(f"{url}/api/traces", service="storefront", operation="checkout", limit=50)
        assert traces["data"], "there are none"
        # The newest may not have come whole yet, and the first visits found nobody.
        wrong = None
        for one in traces["data"]:
            try:
                return visit(one)
            except (AssertionError, KeyError, ValueError) as why:
                wrong = why
        raise AssertionError(wrong)

    spans, apps = until("a visit is one trace in Jaeger", look)
    begin = spans[0][0]["startTime"]
    print(f"one visit is one trace in Jaeger, {spans[0][0]['traceID']}:")
    for span, depth in spans:
        after, took = (span["startTime"] - begin) / 1e3, span["duration"] / 1e3
        kind = tag(span, "span.kind") or "internal"
        who = apps[span["processID"]]
        print(f"{after:8.2f} ms {took:8.2f} ms  {'  ' * depth}{span['operationName']}  {who}, {kind}")


def figures(url, dashboard, alerts):
    def ask(query):
        answer = get(f"{url}/api/v1/query", query=query)
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(query):
        found = ask(query)
        assert len(found) == 1, f"{query} is {found}"
        return float(found[0]["value"][1])

    def everybody():
        assert value('sum(up{job="sidelane-sidecar"})') == APPS
        assert value("sum(sidelane_control_connected)") == APPS
        assert value('sum(up{job="sidelane-control"})') == 1

    def calls():
        rate = 'rate(sidelane_requests_total{direction="outbound",node="storefront"}[30s])'
        services = {
            it["metric"]["service"]: float(it["value"][1]) for it in ask(f"sum by (service) ({rate})")
        }
        wanted = {method.split("/")[0] for method in METHODS}
        assert wanted <= set(services), services
        # Five visits a second, on a machine that may be busy.
        assert all(1 < services[name] < 10 for name in wanted), services
        peers = {it["metric"]["peer"] for it in ask("sidelane_peer_requests_total > 0")}
        # By its certificate: links are mTLS, as the default is.
        assert peers == {"spiffe://sidelane.internal/ns/default/sa/storefront"}, peers
        failed = 'sum(increase(sidelane_responses_total{direction="outbound",status!="0"}[30s]))'
        return services, sum(float(it["value"][1]) for it in ask(failed))

    until("Prometheus reads control and all sidecars", everybody)
    services, failed = until("Prometheus has the shop's calls", calls)
    told = ", ".join(f"{name} {rate:.1f}" for name, rate in sorted(services.items()) if rate > 0)
    print(f"calls a second, by Prometheus: {told}; not OK in 30 s: {failed:.0f}")

    groups = get(f"{url}/api/v1/rules", type="alert")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    with open(alerts, encoding="utf-8") as file:
        wanted = re.findall(r"- alert: (\w+)", file.read())
    assert {rule["name"] for rule in rules} == set(wanted), [rule["name"] for rule in rules]
    broken = {rule["name"]: rule["lastError"] for rule in rules if rule["health"] == "err"}
    assert not broken, broken
    firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
    assert not firing, firing
    print(f"{len(rules)} alert rules are followed, none fires")

    with open(dashboard, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    asked, empty = 0, []
    for panel in panels:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$service", ".*").replace("$__rate_interval", "30s")
            asked += 1
            if not ask(query):
                empty.append(panel["title"])
    print(f"{asked} queries of the dashboard are understood; nothing to show yet: {sorted(set(empty))}")
    # What can only be there where something goes wrong may be empty; what every mesh has may not.
    for title in ("Calls a second", "p99", "How long calls take", "Calls in lanes", "Memory", "Spans"):
        assert title not in empty, title


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ports", count]:
            ports(int(count))
        case ["image", service]:
            image(service)
        case ["trace", url]:
            trace(url)
        case ["figures", url, dashboard, alerts]:
            figures(url, dashboard, alerts)
        case _:
            sys.exit(__doc__)
