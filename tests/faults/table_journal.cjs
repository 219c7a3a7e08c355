"use strict";
// Loaded into Azurite before its own code (node --require): its tables keep a journal instead of a snapshot.
//
// Azurite answers a write when it is in memory, and saves everything every five seconds: what it acknowledged in the
// last seconds is gone when it is killed. The service that it stands for answers when a write is durable. With this
// journal Azurite does too: each write, and each transaction as one line, is in the file before the answer is sent. A
// line that was cut by the kill was never acknowledged and is left out, whole. What a process has handed to write(2)
// outlives it, so nothing is synced: this is for killed processes, not for power cuts.
const fs = require("fs");
const path = require("path");

const store = require(path.join(path.dirname(process.argv[1]), "persistence", "LokiTableMetadataStore.js"));
const Store = store.default;

class Journal {
  constructor(file) {
    this.file = file;
    this.open = null;
    this.depth = 0;
    this.waiting = [];
  }

  // What all complete lines add up to: per collection its options and rows.
  read() {
    const collections = new Map();
    if (!fs.existsSync(this.file)) return collections;
    const lines = fs.readFileSync(this.file, "utf8").split("\n");
    lines.pop(); // empty, or cut
    for (const line of lines) {
      for (const [what, name, key, value] of JSON.parse(line)) {
        if (what === "add") collections.set(name, { options: value, rows: new Map() });
        else if (what === "drop") collections.delete(name);
        else if (what === "put") collections.get(name).rows.set(key, value);
        else collections.get(name).rows.delete(key);
      }
    }
    return collections;
  }

  write(...change) {
    this.waiting.push(change);
    if (this.depth === 0) this.flush();
  }

  flush() {
    if (this.waiting.length === 0) return;
    const bytes = Buffer.from(JSON.stringify(this.waiting) + "\n");
    this.waiting = [];
    for (let at = 0; at < bytes.length; ) at += fs.writeSync(this.open, bytes, at);
  }
}

function keyOf(row) {
  return JSON.stringify([row.account, row.table, row.accountName, row.PartitionKey, row.RowKey]);
}

function plain(row) {
  const { $loki, meta, ...rest } = row;
  return rest;
}

function watch(journal, collection) {
  for (const verb of ["insert", "update"]) {
    const before = collection[verb];
    collection[verb] = function (row) {
      const result = before.apply(this, arguments);
      journal.write("put", collection.name, keyOf(row), plain(row));
      return result;
    };
  }
  const remove = collection.remove;
  collection.remove = function (row) {
    const key = keyOf(row);
    const result = remove.apply(this, arguments);
    journal.write("del", collection.name, key);
    return result;
  };
}

Store.prototype.init = async function () {
  const db = this.db;
  db.autosaveDisable();
  db.saveDatabase = (done) => done();
  const journal = (this.journal = new Journal(this.lokiDBPath + ".journal"));
  const before = journal.read();
  // Written anew at every start, so that it does not grow for ever; the old one counts until the new one is whole.
  const fresh = journal.file + "~";
  journal.open = fs.openSync(fresh, "w");
  const add = db.addCollection;
  db.addCollection = function (name, options) {
    const collection = add.apply(this, arguments);
    journal.write("add", name, null, options);
    watch(journal, collection);
    return collection;
  };
  const drop = db.removeCollection;
  db.removeCollection = function (name) {
    drop.apply(this, arguments);
    journal.write("drop", name);
  };
  journal.depth = 1;
  for (const [name, { options, rows }] of before) {
    const collection = add.call(db, name, options);
    collection.insert([...rows.values()], true); // all at once: indexed when all are there
    journal.write("add", name, null, options);
    for (const [key, row] of rows) journal.write("put", name, key, plain(row));
    watch(journal, collection);
  }
  journal.depth = 0;
  journal.flush();
  this.createTablesCollection();
  this.createServicePropsCollection();
  fs.renameSync(fresh, journal.file);
  this.finalizeInitializationState();
};

const begin = Store.prototype.beginBatchTransaction;
Store.prototype.beginBatchTransaction = async function () {
  await begin.apply(this, arguments);
  this.journal.depth += 1;
};

const end = Store.prototype.endBatchTransaction;
Store.prototype.endBatchTransaction = async function () {
  await end.apply(this, arguments); // takes back what it did, if the transaction failed
  this.journal.depth -= 1;
  if (this.journal.depth === 0) this.journal.flush();
};
