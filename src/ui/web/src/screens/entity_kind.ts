// What the lists of agents, tokens, authorization backends and load balancers have in common.
import type { EventRecord, Session } from '../model';
import type { Column, TableKind } from '../table';

/** An entity as lists have it: with masks in place of secrets. */
export type Entity = Record<string, unknown>;

export interface EntityKind {
  screen: 'agents' | 'tokens' | 'auth' | 'balancers';
  path: string;
  /** The member of a page that has the rows. */
  collection: string;
  /** The member that names an entity. */
  key: 'id' | 'name';
  /** What events about it name: the type of the entity, or the beginning of the operation. */
  about: 'agent' | 'api_token' | 'auth_backend' | 'load_balancer';
  table: TableKind;
  columns: Column<Entity>[];
  /** The members that are read: no secrets. */
  select: string;
  /** The members that can be edited. */
  editable: string[];
  /** The member that is only written, if there is one: a secret is in no list. */
  secret?: { member: string; mayRemove: boolean };
  /** What a new one begins with. */
  example: Entity;
  /** Commands, as paths below the entity and their words. */
  commands: [string, string][];
  mayWrite: (me: Session) => boolean;
  /** Why it may not be written. */
  whyNot: string;
}

export const nameOf = (kind: EntityKind, row: Entity) => String(row[kind.key]);

/** Whether an event is about entities of this kind. */
export const isAbout = ({ about }: EntityKind, event: EventRecord): boolean =>
  event.entity_type === about || (event.operation_id ?? event.event).startsWith(`${about}_`);

export const pathOf = (kind: EntityKind, name: string) =>
  `${kind.path}/${encodeURIComponent(name)}`;
