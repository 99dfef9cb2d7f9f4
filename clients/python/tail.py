#!/usr/bin/env python3
"""Follow a topic, resume after each disconnection: python3 tail.py [URL [TOPIC]]   (pip install websocket-client)"""
import json, random, sys, time, websocket
url, topic = (sys.argv[1:] + ["ws://127.0.0.1:8080/ws", "quotes"][len(sys.argv) - 1:])[:2]
position = None  # {"epoch": ..., "offsets": {partition: next offset}}
while True:
    wait = random.uniform(0, 2)  # before the next try, unless the gateway says otherwise
    try:
        ws = websocket.create_connection(url, timeout=60)
        ws.send(json.dumps({"cmd": "sub", "id": 1, "topic": topic, **({"from": position} if position else {})}))
        for text in iter(ws.recv, ""):
            f = json.loads(text)
            event = f.get("event")
            if event is None:
                print(f.get("partition", 0), f["offset"], f.get("key"), json.dumps(f["data"]), flush=True)
                position["offsets"][str(f.get("partition", 0))] = f["offset"] + 1
            elif event in ("subscribed", "reset"):
                position = {"epoch": f["epoch"], "offsets": f["from"]}
            elif event == "gap" and f["cause"] != "epoch":
                print("missing:", f, file=sys.stderr)
                position["offsets"][str(f["partition"])] = f["to"]
            elif event == "heartbeat":
                position["offsets"].update(f["covered"]["1"])
            elif event == "bye" and f.get("wait_ms"):
                wait = random.uniform(*f["wait_ms"]) / 1000
            if event in ("error", "bye") and not f["retry"]: sys.exit(text)
            if event == "error": break  # for now: ask again later
    except (OSError, websocket.WebSocketException) as e:  # the connection is lost
        print("reconnecting:", e, file=sys.stderr)
    time.sleep(wait)
