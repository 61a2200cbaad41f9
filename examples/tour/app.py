from realtime import App, Connection, Reject

app = App()


@app.on_connect
async def connect(conn: Connection) -> None:
    conn.user = conn.claims["sub"] if conn.claims else f"guest-{conn.id[:6]}"


@app.room("chat:{name}", presence=True, history=100)
class Chat:
    async def on_publish(self, conn: Connection, name: str, data: dict) -> dict:
        if not data.get("text"):
            raise Reject("say something")
        return {"from": conn.user, "text": data["text"], "worker": conn.slot}
