// openapi-typescript's types with openapi-fetch.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./document.js";

const baseUrl = process.env["LARIBA_URL"]!;
const token = process.env["LARIBA_MANAGEMENT_TOKEN"]!;
const operator = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const project = (await operator.POST("/v1/projects", { body: { name: `Shop ${randomUUID()}` } })).data!;
const inProject = { params: { path: { project_id: project.id } } };
const environment = (await operator.GET("/v1/projects/{project_id}/environments", inProject)).data!.data[0]!;
const source = (await operator.POST("/v1/environments/{environment_id}/sources", {
  params: { path: { environment_id: environment.id } },
  body: { name: "checkout", type: "backend", key: { label: "first" } },
})).data!;
assert(source.key);
const key = (await operator.POST("/v1/sources/{source_id}/keys", {
  params: { path: { source_id: source.id } },
  body: { label: "second" },
})).data!;

const producer = createClient<paths>({ baseUrl, headers: { "X-API-Key": key.key } });
const event: components["schemas"]["Envelope"] = {
  event_id: "e1", event_type: "a.b", source_id: source.id, payload: { amount: 49.99 },
};
const receipt = (await producer.POST("/v1/events/ingest", {
  params: { header: { "Idempotency-Key": "k1" } }, body: event,
})).data!;
assert.deepEqual([receipt.accepted, receipt.status], [true, "stored"]);
const answer = (await producer.POST("/v1/events/ingest/batch", {
  body: { events: [event, { ...event, event_id: "e2" }] },
})).data!;
assert.deepEqual(answer.verdicts.map((verdict) => verdict.status), ["duplicate", "stored"]);

await operator.POST("/v1/keys/{key_id}/revoke", { params: { path: { key_id: key.id } } });
const refused = await producer.POST("/v1/events/ingest", { body: event });
assert.equal(refused.error && "error" in refused.error && refused.error.error.code, "invalid_source_key");
const exported = await operator.GET("/v1/audit/export", { parseAs: "text" });
assert.match(exported.data as unknown as string, /"complete": true/);
