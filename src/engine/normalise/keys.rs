//! Names that adapters use: those with a place of their own in a decoded payload, and those of raw prices.
//! What they mean is in the parent; its tests cover them.

/// Names of top-level fields that mean something to us; the value is the index of its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Ltp,
    LastPrice,
    LastTradedPrice,
    Ltt,
    Timestamp,
    ExchangeTimestamp,
    FlattradeTimestamp,
    ShoonyaTimestamp,
    Open,
    High,
    Low,
    Close,
    Cp,
    Volume,
    VolumeTraded,
    LastQuantity,
    LastTradeQuantity,
    LastTradedQuantity,
    Ltq,
    AveragePrice,
    AvgTradePrice,
    AverageTradedPrice,
    Atp,
    TotalBuyQuantity,
    TotalBuyQty,
    TotalSellQuantity,
    TotalSellQty,
    Oi,
    OpenInterest,
    Depth,
    Bids,
    Asks,
}

/// How many [`Key`]s there are.
pub(super) const KEYS: usize = Key::Asks as usize + 1;

impl Key {
    /// The key of that name.
    pub(super) fn of(name: &[u8]) -> Option<Key> {
        Some(match name {
            b"ltp" => Key::Ltp,
            b"last_price" => Key::LastPrice,
            b"last_traded_price" => Key::LastTradedPrice,
            b"ltt" => Key::Ltt,
            b"timestamp" => Key::Timestamp,
            b"exchange_timestamp" => Key::ExchangeTimestamp,
            b"flattrade_timestamp" => Key::FlattradeTimestamp,
            b"shoonya_timestamp" => Key::ShoonyaTimestamp,
            b"open" => Key::Open,
            b"high" => Key::High,
            b"low" => Key::Low,
            b"close" => Key::Close,
            b"cp" => Key::Cp,
            b"volume" => Key::Volume,
            b"volume_traded" => Key::VolumeTraded,
            b"last_quantity" => Key::LastQuantity,
            b"last_trade_quantity" => Key::LastTradeQuantity,
            b"last_traded_quantity" => Key::LastTradedQuantity,
            b"ltq" => Key::Ltq,
            b"average_price" => Key::AveragePrice,
            b"avg_trade_price" => Key::AvgTradePrice,
            b"average_traded_price" => Key::AverageTradedPrice,
            b"atp" => Key::Atp,
            b"total_buy_quantity" => Key::TotalBuyQuantity,
            b"totalbuyqty" => Key::TotalBuyQty,
            b"total_sell_quantity" => Key::TotalSellQuantity,
            b"totalsellqty" => Key::TotalSellQty,
            b"oi" => Key::Oi,
            b"open_interest" => Key::OpenInterest,
            b"depth" => Key::Depth,
            b"bids" => Key::Bids,
            b"asks" => Key::Asks,
            _ => return None,
        })
    }
}

/// Whether a value under this name, at any depth of a raw payload, is a price: names the brokers' own libraries use.
pub(super) fn is_price_key(name: &[u8]) -> bool {
    matches!(
        name,
        b"last_traded_price"
            | b"last_price"
            | b"price"
            | b"open"
            | b"high"
            | b"low"
            | b"close"
            | b"cp"
            | b"open_price_of_the_day"
            | b"high_price_of_the_day"
            | b"low_price_of_the_day"
            | b"closed_price"
            | b"average_price"
            | b"avg_trade_price"
            | b"average_traded_price"
            | b"atp"
            | b"upper_circuit"
            | b"lower_circuit"
            | b"upper_circuit_limit"
            | b"lower_circuit_limit"
            | b"52_week_high"
            | b"52_week_low"
            | b"52_week_high_price"
            | b"52_week_low_price"
            | b"price_change"
    )
}
