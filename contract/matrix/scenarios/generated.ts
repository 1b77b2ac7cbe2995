// openapi-generator's client for TypeScript (typescript-fetch).
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import {
  AuditApi, Configuration, EnvironmentsApi, IngestApi, KeysApi, ProjectsApi, ResponseError, SourcesApi, type Envelope,
} from "./index.js";

const basePath = process.env["LARIBA_URL"]!;
const operator = new Configuration({ basePath, accessToken: process.env["LARIBA_MANAGEMENT_TOKEN"]! });

const project = await new ProjectsApi(operator).createProject({ projectCreate: { name: `Shop ${randomUUID()}` } });
const environment = (await new EnvironmentsApi(operator).listEnvironments({ projectId: project.id })).data[0]!;
const source = await new SourcesApi(operator).createSource({
  environmentId: environment.id, sourceCreate: { name: "checkout", type: "backend", key: { label: "first" } },
});
assert(source.key);
const key = await new KeysApi(operator).issueKey({ sourceId: source.id, keyCreate: { label: "second" } });

const producer = new IngestApi(new Configuration({ basePath, apiKey: key.key }));
const envelope: Envelope = { eventId: "e1", eventType: "a.b", sourceId: source.id, payload: { amount: 49.99 } };
const receipt = await producer.ingestEvent({ envelope, idempotencyKey: "k1" });
assert.deepEqual([receipt.accepted, receipt.status], [true, "stored"]);
const answer = await producer.ingestBatch({ eventBatch: { events: [envelope, { ...envelope, eventId: "e2" }] } });
assert.deepEqual(answer.verdicts.map((verdict) => verdict.status), ["duplicate", "stored"]);

await new KeysApi(operator).revokeKey({ keyId: key.id });
await assert.rejects(producer.ingestEvent({ envelope }), (error) => {
  assert(error instanceof ResponseError);
  assert.equal(error.response.status, 401);
  return true;
});
const exported = await new AuditApi(operator).exportAuditEntries();
assert.match(await exported.text(), /"complete": true/);
