//! The feed's order updates, with the ticks or from a socket of their own: whose they are and what they are about is added here.

use super::super::broker::{Broker, Event, Order};
use super::super::handover::OrdersFull;
use super::super::orders::{self, Heard};
use super::rows::Done;
use super::{Account, Feed, SAID_MAX};
use crate::adapter::Report;
use crate::model::Micros;
use std::sync::Arc;
use tokio::sync::mpsc;

impl<B: Broker> Feed<B> {
    /// Opens the socket of order updates, if the broker has one of its own and it is not open already.
    pub(super) fn hear_orders(&mut self) {
        let (Some(url), None) = (&self.account.order_url, &self.orders) else { return };
        let (heard, orders) = mpsc::channel(SAID_MAX);
        let (broker, account) = (Arc::clone(&self.broker), Arc::clone(&self.account));
        let stream = orders::run(broker, account, url.clone(), self.tls.clone(), heard);
        self.tasks.spawn(async {
            stream.await;
            Done::Socket
        });
        self.orders = Some(orders);
    }

    pub(super) fn take_order(&mut self, event: Event<B::Token>, t_recv: Micros) {
        match event {
            Event::Order(order) => {
                self.order(order, t_recv);
                self.handover.flush(t_recv);
            }
            Event::Notice(text) => {
                let Account { broker, user, .. } = &*self.account;
                tracing::info!(broker, user, text, "the broker says of orders");
            }
            _ => self.account.metrics.damaged.increment(1),
        }
    }

    /// Hands an order update over as OpenAlgo's publishers do (protocol 3.6).
    pub(super) fn order(&mut self, order: Order<B::Token>, t_recv: Micros) {
        let Account { broker, user, .. } = &*self.account;
        let mut json = serde_json::Map::new();
        for (name, value) in [("type", "order_update"), ("user_id", user), ("mode", "live"), ("broker", broker)] {
            json.insert(name.to_owned(), value.into());
        }
        json.extend(order.fields);
        let listing = order.token.map(|token| self.broker.listing(&token));
        if let (Some((exchange, token)), Some(table)) = (listing, &self.table)
            && let Some(name) = table.names_of(exchange, &token).next()
        {
            json.insert("symbol".to_owned(), name.symbol.into());
            json.insert("exchange".to_owned(), name.venue.into());
        }
        let topic = format!("{}_{user}_orders", broker.to_ascii_uppercase());
        let json = serde_json::to_vec(&json).expect("a map of JSON values is JSON");
        if self.handover.order(topic, json, t_recv) == Err(OrdersFull) {
            self.end(Report::Lost { reason: "order updates could not be handed over".to_owned() });
        }
    }
}

/// The next word of the socket of order updates; never when there is none.
pub(super) async fn next_order<T>(orders: &mut Option<mpsc::Receiver<Heard<T>>>) -> Option<Heard<T>> {
    match orders {
        Some(orders) => orders.recv().await,
        None => std::future::pending().await,
    }
}
